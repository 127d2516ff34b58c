"""Pictures as the pixels that the model sees."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from PIL import Image

from dsvl_pipeline.model.image_config import RGB, ImageConfig, TowerImageConfig
from dsvl_pipeline.records import ImageInput, Pixels


def letterbox(
    image: Image.Image,
    *,
    side: int,
    fill: RGB,
    resample: int = Image.Resampling.BICUBIC,
    min_edge: int = 14,
) -> Pixels:
    """Fit an image into a square without changing its aspect ratio.

    The longer edge becomes exactly ``side`` pixels. The shorter one is scaled by the same factor,
    rounded, and never below ``min_edge``. The picture is centred; an odd spare pixel falls right
    or below.

    Args:
        image: RGB picture of any size.
        side: Edge of the square in pixels (1024 for the 7B checkpoints).
        fill: Background colour, 0-255 per channel.
        resample: Pillow's number of the filter.
        min_edge: Least length of the shorter edge, in pixels.

    Returns:
        ``uint8[side, side, 3]``: height, width, channel; not yet rescaled or normalised.

    Source: ``DeepseekVLHybridImageProcessor`` (PIL), transformers 5.23; the original truncates.
    """
    scaled = _scale(image, side, resample, min_edge)
    return _pad(scaled, width=side, height=side, fill=fill)


def image_input(
    image: Image.Image, config: ImageConfig, *, source_digest: bytes | None = None
) -> ImageInput:
    """Make what the towers see of an RGB picture.

    With two towers the low-resolution pixels come from the padded high-resolution ones, background
    included.

    Args:
        image: RGB picture of any size.
        config: Sizes and filters.
        source_digest: Of the bytes that were decoded, where they are known: takes the place of a
            digest of the pixels, which are seven times as many.
    """
    low, high, min_edge = config.low_res, config.high_res, config.min_size_px
    if high is None:
        low_res = letterbox(
            image, side=low.side_px, fill=low.background, resample=low.resample, min_edge=min_edge
        )
        name = source_digest or digest(None, low_res)
        return ImageInput(digest=name, high_res=None, low_res=low_res)
    # Upstream takes 0 (nearest) for "not given" here, and falls back to the other tower's.
    scaled = _scale(image, high.side_px, high.resample or low.resample, min_edge)
    high_res = _pad(scaled, width=high.side_px, height=high.side_px, fill=high.background)
    low_res = low_res_copy(scaled, side=high.side_px, low=low, fill=high.background)
    name = source_digest or digest(high_res, low_res)
    return ImageInput(digest=name, high_res=high_res, low_res=low_res)


def low_res_copy(scaled: Image.Image, *, side: int, low: TowerImageConfig, fill: RGB) -> Pixels:
    """Resize the high-resolution square, sparing the bars where that makes no difference.

    Args:
        scaled: What lies between the bars of the square.
        side: Edge of the square.
        low: Size and filter of the copy.
        fill: Colour of the bars.
    """
    # Pillow resizes every row, rounds to bytes, then every column. Rows of one colour stay what
    # they are, so the bars above and below can wait until between its two steps.
    wide = _on_canvas(scaled, side, scaled.height, fill)
    rows = wide.resize((low.side_px, scaled.height), low.resample)
    square = _on_canvas(rows, low.side_px, side, fill)
    return np.array(square.resize((low.side_px, low.side_px), low.resample))


def _on_canvas(image: Image.Image, width: int, height: int, fill: RGB) -> Image.Image:
    if image.size == (width, height):
        return image
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def digest(high_res: Pixels | None, low_res: Pixels) -> bytes:
    """Name a pair of pictures by 16 bytes of a sha256.

    Of the low-resolution one only the size counts where there is another one to make it from:
    hashing both would cost an eighth more, and tell no more pictures apart. Processors with
    instructions for sha256 take half of blake2b's time.
    """
    pixels = low_res if high_res is None else high_res
    hashed = sha256(repr((pixels.shape, low_res.shape)).encode(), usedforsecurity=False)
    hashed.update(pixels.data)
    return hashed.digest()[:16]


def _scale(image: Image.Image, side: int, resample: int, min_edge: int) -> Image.Image:
    scale = side / max(image.size)
    width, height = (max(round(edge * scale), min_edge) for edge in image.size)
    return image.resize((width, height), resample)


def _pad(image: Image.Image, *, width: int, height: int, fill: RGB) -> Pixels:
    """Centre a picture on a background; a writable copy in any case."""
    if image.size == (width, height):
        return np.array(image)
    padded = np.empty((height, width, 3), np.uint8)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    right, bottom = left + image.width, top + image.height
    padded[top:bottom, left:right] = np.asarray(image)
    # Only the bars: filling all of it first would cost as much again.
    bar = np.empty((width, 3), np.uint8)
    bar[:] = fill
    padded[:top] = padded[bottom:] = bar
    padded[:, :left], padded[:, right:] = bar[:left], bar[right:]
    return padded
