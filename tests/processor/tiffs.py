"""TIFF files by hand: Pillow writes few of the samples, and none of the directories, that occur."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = int | float | Sequence[int] | Sequence[float]
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273
SAMPLES, ROWS, SIZES, X_RESOLUTION, Y_RESOLUTION = 277, 278, 279, 282, 283
PLANAR, UNIT, PREDICTOR, COLOURS, EXTRAS, FORM = 284, 296, 317, 320, 338, 339


def packed_bits(numbers: NDArray[Any], bits: int) -> bytes:
    """Rows of samples of any number of bits, each row filled up to a whole byte."""
    rows = numbers.reshape(len(numbers), -1).astype(np.uint64)
    ones = (rows[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def page(
    pixels: NDArray[Any],
    *,
    photometric: int = 1,
    form: int = 1,
    bits: int | None = None,
    order: str = "<",
    compression: int = 1,
    body: bytes | None = None,
    more: Mapping[int, Values] = {},
) -> tuple[dict[int, Values], bytes]:
    """Give tags and samples of a page of one strip; ``pixels[height, width(, samples)]``."""
    height, width = pixels.shape[:2]
    num_samples = pixels.shape[2] if pixels.ndim == 3 else 1
    if body is None:
        body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if compression == 8:
        body = zlib.compress(body)
    tags: dict[int, Values] = {
        WIDTH: width,
        HEIGHT: height,
        BITS: [bits or 8 * pixels.dtype.itemsize] * num_samples,
        COMPRESSION: compression,
        PHOTOMETRIC: photometric,
        SAMPLES: num_samples,
        ROWS: height,
        FORM: [form] * num_samples,
        **more,
    }
    return tags, body


def file(*pages: tuple[dict[int, Values], bytes], order: str = "<", is_big: bool = False) -> bytes:
    """Chain pages to a file."""
    mark = b"II" if order == "<" else b"MM"
    if is_big:
        data = bytearray(mark + struct.pack(order + "HHHQ", 43, 8, 0, 0))
    else:
        data = bytearray(mark + struct.pack(order + "HI", 42, 0))
    link = 8 if is_big else 4
    width = "Q" if is_big else "I"
    for tags, body in pages:
        strip = len(data)
        data += body + b"\0" * (len(body) % 2)
        entries = []
        strips = {} if 324 in tags else {OFFSETS: strip, SIZES: len(body)}
        for tag, values in sorted({**strips, **tags}.items()):
            packed, kind, count = _value(values, tag, order)
            if len(packed) > (8 if is_big else 4):
                place = len(data)
                data += packed + b"\0" * (len(packed) % 2)
                packed = struct.pack(order + width, place)
            entries.append(
                struct.pack(order + "HH" + width, tag, kind, count)
                + packed.ljust(8 if is_big else 4, b"\0")
            )
        struct.pack_into(order + width, data, link, len(data))
        data += struct.pack(order + ("Q" if is_big else "H"), len(entries)) + b"".join(entries)
        link = len(data)
        data += struct.pack(order + width, 0)
    return bytes(data)


def _value(values: Values, tag: int, order: str) -> tuple[bytes, int, int]:
    if isinstance(values, bytes):
        return values, 2, len(values)
    many = list(values) if isinstance(values, Sequence) else [values]
    if tag in (X_RESOLUTION, Y_RESOLUTION):
        pairs = [n for value in many for n in (round(value * 100), 100)]
        return struct.pack(f"{order}{len(pairs)}I", *pairs), 5, len(many)
    if any(isinstance(value, float) for value in many):
        return struct.pack(f"{order}{len(many)}d", *many), 12, len(many)
    if tag in (BITS, PHOTOMETRIC, SAMPLES, COMPRESSION, FORM, COLOURS, EXTRAS, UNIT, PLANAR):
        return struct.pack(f"{order}{len(many)}H", *many), 3, len(many)
    return struct.pack(f"{order}{len(many)}I", *many), 4, len(many)
