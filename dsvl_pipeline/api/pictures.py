"""Pictures from wherever a caller may have them."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dsvl_pipeline.errors import FetchError, ImageError
from dsvl_pipeline.processor import decode
from dsvl_pipeline.store.uris import path_of, scheme_of, shown

if TYPE_CHECKING:
    from dsvl_pipeline.sources.web import WebReader

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor

_MAX_BYTES, _TIMEOUT_S = 64 << 20, 30.0
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_NUM_CHANNELS = (1, 3, 4)


def flatten(images: Any) -> list[Any]:
    """Return the pictures of lists that may lie in one another, and of batches, in order."""
    is_batch = isinstance(images, Tensor | np.ndarray) and images.ndim > 3
    if is_batch or isinstance(images, list | tuple):
        return [one for some in images for one in flatten(some)]
    return [images]


def sources_of(part: Mapping[str, Any]) -> list[Any]:
    """Return the pictures that an image part of a message names: one, if it is well formed."""
    found = [part[key] for key in ("image", "url", "path") if part.get(key) is not None]
    if (text := part.get("base64")) is not None:
        found.append(text if str(text).startswith("data:") else f"data:;base64,{text}")
    return found


def read(source: Any, *, allow_http: bool = False) -> Image.Image | NDArray[Any]:
    """Open a picture: a file decoded to upright RGB, anything else as it is.

    Args:
        source: Path, ``file://`` or ``data:`` URL, base64, the bytes of a file, a Pillow picture,
            an array or a tensor; with ``allow_http`` also a public web address.
        allow_http: Whether web addresses are fetched.

    Raises:
        ImageError: It cannot be had or decoded; it is a ValueError as well.
        TypeError: It is none of these.
    """
    match source:
        case Image.Image() | np.ndarray():
            return source
        case Tensor():
            tensor = source.detach().cpu()
            tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has none
            array: NDArray[Any] = tensor.numpy()
            return array
        case bytes() | bytearray() | memoryview():
            return decode.decode(bytes(source))
        case str() | os.PathLike():
            return decode.decode(_read_bytes(os.fspath(source), allow_http=allow_http))
    raise TypeError(
        f"a picture is of type {type(source).__name__}; it must be a path, URL, bytes, Pillow "
        "picture, array or tensor"
    )


def channels_first(image: NDArray[Any], order: str | None = None) -> NDArray[Any]:
    """Return an array as ``[C, H, W]``.

    Args:
        image: Grey ``[H, W]``, or with 1, 3 or 4 channels, first or last.
        order: Where its channels are; by default the first, if that is one of these numbers.

    Raises:
        ValueError: Neither end can be the channels.
    """
    order = getattr(order, "value", order)
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3 and order is None:
        order = "channels_last" if image.shape[2] in _NUM_CHANNELS else None
        order = "channels_first" if image.shape[0] in _NUM_CHANNELS else order
    if image.ndim != 3 or order not in ("channels_first", "channels_last"):
        raise ValueError(
            f"a picture has the shape {image.shape} and input_data_format {order!r}; it must be "
            "[height, width], or have 1, 3 or 4 channels, first or last, as input_data_format says"
        )
    return image if order == "channels_first" else np.moveaxis(image, -1, 0)


def _read_bytes(name: str, *, allow_http: bool) -> bytes:
    if name.startswith("data:"):
        return _data_url(name)
    if scheme_of(name) in ("http", "https"):
        return _download(name, allow_http=allow_http)
    path = path_of(name)
    if os.path.isfile(path):
        return Path(path).read_bytes()
    if _BASE64.fullmatch(name):
        return _from_base64(name)
    raise ImageError(
        "not_found",
        f"{name[:200]!r} is no file here, and neither a data: URL nor base64; give the path of a "
        "picture",
    )


def _data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ImageError("url_invalid", f"{url[:40]!r} is no data: URL; it needs a comma")
    return _from_base64(body) if head.endswith(";base64") else unquote_to_bytes(body)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise ImageError("url_invalid", f"{text[:40]!r}... is not base64: {error}") from error


def _download(url: str, *, allow_http: bool) -> bytes:
    if not allow_http:
        raise ImageError(
            "scheme_refused",
            f"{shown(url)} is on the network, where nothing is fetched unless allow_http=True is "
            "given to from_pretrained or to the call; or download it and give its path",
        )
    try:
        return _web().read(url, max_bytes=_MAX_BYTES).data
    except FetchError as error:
        raise ImageError(error.code, str(error), is_retryable=error.is_retryable) from error


@cache
def _web() -> WebReader:
    """Return this process's reader, which connects to public addresses only."""
    # slow to import, and most pictures are files
    from dsvl_pipeline.sources.web import WebReader

    return WebReader(timeout_s=_TIMEOUT_S)
