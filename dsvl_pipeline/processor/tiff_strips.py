"""Strips and tiles of a TIFF's page, unpacked into one array of samples.

Pillow decompresses the bytes of each; what the bytes mean is read here.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from dsvl_pipeline.processor.tiff import Tags, number_of, numbers_of
from dsvl_pipeline.processor.tiff_layout import (
    BLACK_IS_ZERO,
    FLOAT,
    NO_COMPRESSION,
    PREDICTED,
    SIGNED,
    UNSIGNED,
    WORDS,
    Layout,
    unknown_layout,
)

# Of an array of samples, converted at a time: what stays in a core's cache.
_BAND_SAMPLES = 1 << 17

# Of a strip or tile that is larger than its picture.
_MOST_PART_BYTES = 1 << 26

_KINDS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}  # as Numpy calls them

_REVERSED_BITS = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1]
)


def unpack(data: bytes, tags: Tags, layout: Layout) -> NDArray[Any]:
    """Read all samples, ``[height, width, sample]``, each as the number that its bits make.

    By the standard they are packed, bit after bit. Some cameras and programs give each of 9 to 15
    bits a word instead, where they fill its lower bits or, as the sensor has them, the upper ones.
    Such strips are longer, and no longer than that; and the spare bits of all words tell it, as a
    strip of packed samples may be filled up to just that length.
    """
    bits = layout.bits
    if bits in WORDS:
        return _gather(data, tags, layout, bits)
    word = next(size for size in WORDS if size > bits)
    num = layout.width * (1 if layout.is_planar else layout.num_samples)
    if -(-num * bits // 8) == num * word // 8:  # so short a row takes as many bytes either way
        return _gather(data, tags, layout, bits)
    with suppress(OSError):
        words = _gather(data, tags, layout, word)
        if words.max(initial=0) >> bits == 0:
            return words
        if _are_upper_bits(words, bits):
            try:
                _gather(data, tags, layout, word, num_spare=1)
            except OSError:
                return words >> (word - bits)
    return _gather(data, tags, layout, bits)


def _are_upper_bits(words: NDArray[Any], bits: int) -> bool:
    """Return whether the lower bits of words are all zero, or all repeat the upper ones.

    They repeat them where a shifter has filled up, so that white is all ones.
    """
    word = 8 * words.dtype.itemsize
    are_zero = are_repeated = True
    for rows in row_slices(words):
        band = words[rows]
        upper = band >> (word - bits) << (word - bits)
        filled = upper.copy()
        for shift in range(bits, word, bits):
            filled |= upper >> shift
        are_zero = are_zero and bool((band == upper).all())
        are_repeated = are_repeated and bool((band == filled).all())
        if not are_zero and not are_repeated:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The strips or tiles of a page: all of one size, from left to right and top to bottom.

    Attributes:
        width: Of each, in units of the layout.
        height: Likewise; the last strip has what is left, tiles are whole.
        are_tiles: Whether they stand out over the edge of the picture.
        offsets: Where each begins in the file.
        sizes: Bytes of each.
    """

    width: int
    height: int
    are_tiles: bool
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def _parts_of(data: bytes, tags: Tags, layout: Layout) -> _Parts:
    """Read where the strips or tiles of a page lie.

    Raises:
        OSError: They are not all there, or have no size.
    """
    is_tiled, (across, down) = 324 in tags, layout.unit
    if is_tiled:
        width = -(-number_of(tags, 322, 0) // across)
        height = -(-number_of(tags, 323, 0) // down)
    else:
        width = layout.width
        height = min(-(-number_of(tags, 278, layout.height * down) // down), layout.height)
    offsets = numbers_of(tags, 324 if is_tiled else 273, ())
    sizes = numbers_of(tags, 325 if is_tiled else 279, ())
    if width < 1 or height < 1 or width > 2 * layout.width + 4096:
        raise OSError("the strips or tiles have no size")
    if not any(sizes):  # old files: up to what follows
        ends = sorted({*offsets, tags.offset, len(data)})
        sizes = tuple(ends[min(bisect(ends, n), len(ends) - 1)] - n for n in offsets)
    num_planes = layout.num_samples if layout.is_planar else 1
    tops, lefts = range(0, layout.height, height), range(0, layout.width, width)
    if min(len(offsets), len(sizes)) < num_planes * len(tops) * len(lefts):
        raise OSError("truncated: strips or tiles are missing")
    return _Parts(width=width, height=height, are_tiles=is_tiled, offsets=offsets, sizes=sizes)


def _gather(
    data: bytes, tags: Tags, layout: Layout, bits: int, *, num_spare: int = 0
) -> NDArray[Any]:
    """Unpack all strips or tiles into one array, ``[height, width, sample]``.

    Args:
        data: The file.
        tags: Of its first page.
        layout: Of the page.
        bits: Of a sample as it is stored.
        num_spare: So many rows have to follow each strip or tile.

    Raises:
        OSError: They are not all there.
    """
    parts, width, height = _parts_of(data, tags, layout), layout.width, layout.height
    num_bytes = next(size for size in WORDS if size >= bits) // 8
    samples = np.empty((height, width, layout.num_samples), f"{_KINDS[layout.form]}{num_bytes}")
    if parts.width * parts.height * num_bytes > max(samples.nbytes, _MOST_PART_BYTES):
        raise OSError(f"tiles of {parts.width} x {parts.height} for {width} x {height} pixels")
    planes = range(layout.num_samples if layout.is_planar else 1)
    places = product(planes, range(0, height, parts.height), range(0, width, parts.width))
    for (plane, top, left), offset, size in zip(places, parts.offsets, parts.sizes, strict=False):
        num_rows = parts.height if parts.are_tiles else min(parts.height, height - top)
        packed = data[offset : offset + size]
        unpacked = _part(packed, tags, layout, bits, num_rows + num_spare, parts.width)
        of_plane = slice(plane, plane + 1) if layout.is_planar else slice(None)
        place = samples[top : top + parts.height, left : left + parts.width, of_plane]
        place[:] = unpacked[: place.shape[0], : place.shape[1]]
    return samples


def _part(
    packed: bytes, tags: Tags, layout: Layout, bits: int, num_rows: int, width: int
) -> NDArray[Any]:
    """Unpack one strip or tile, ``[rows, width, samples]``."""
    stride = 1 if layout.is_planar else layout.num_samples
    num = width * stride
    compression, fill_order = number_of(tags, 259, 1), number_of(tags, 266, 1)
    predictor = number_of(tags, 317, 1) if compression in PREDICTED else 1
    order = "<" if tags.prefix == b"II" else ">"
    whole = _decompress(packed, compression, fill_order, -(-num * bits // 8), num_rows)
    if predictor == 3 and layout.form == FLOAT:
        return _undo_float_predictor(whole, bits // 8, stride).reshape(num_rows, width, stride)
    if bits not in WORDS:
        if predictor != 1:
            raise unknown_layout(f"differences of {bits}-bit samples (predictor {predictor})")
        return _unpack_bits(whole, num, bits, order).reshape(num_rows, width, stride)
    words = whole.view(f"{order}u{bits // 8}").reshape(num_rows, width, stride)
    words = words.astype(f"u{bits // 8}")
    if predictor == 2:
        words = np.cumsum(words, axis=1, dtype=words.dtype)
    elif predictor != 1:
        raise unknown_layout(f"predictor {predictor}")
    return words.view(f"{_KINDS[layout.form]}{bits // 8}")


def _decompress(
    packed: bytes, compression: int, fill_order: int, row_bytes: int, num_rows: int
) -> NDArray[np.uint8]:
    """Return the bytes of a strip or tile, ``[rows, bytes]``, through a TIFF of 8-bit grey."""
    if compression == NO_COMPRESSION:
        if len(packed) < row_bytes * num_rows:
            raise OSError(f"truncated: {len(packed)} bytes of {row_bytes * num_rows}")
        whole = np.frombuffer(packed, np.uint8, row_bytes * num_rows)
        return (_REVERSED_BITS[whole] if fill_order == 2 else whole).reshape(num_rows, row_bytes)
    entries = {
        256: row_bytes,
        257: num_rows,
        258: 8,
        259: compression,
        262: BLACK_IS_ZERO,
        266: fill_order,
        273: 0,
        277: 1,
        278: num_rows,
        279: len(packed),
    }
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries.items())
    file = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0" + packed
    # Not by Image.open, and with its memory given: Pillow's checks for bombs, which are made where
    # a picture is opened and where it gets its memory, would take these bytes for pixels.
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file)) as image:
        image.im = Image.new("L", image.size).im
        return np.asarray(image)


def _unpack_bits(whole: NDArray[np.uint8], num: int, bits: int, order: str) -> NDArray[np.uint32]:
    """Unpack samples of any number of bits up to 32, the highest bit of each first."""
    if bits == 24:  # the one size of whole bytes that is no word
        three = whole.reshape(len(whole), num, 3).astype(np.uint32)
        low, high = (0, 2) if order == "<" else (2, 0)
        return np.asarray(three[..., low] | three[..., 1] << 8 | three[..., high] << 16)
    found = np.empty((len(whole), num), np.uint32)
    at_once = max(_BAND_SAMPLES // (num or 1), 1)
    for top in range(0, len(whole), at_once):
        ones = np.unpackbits(whole[top : top + at_once], axis=1)[:, : num * bits]
        ones = ones.reshape(-1, num, bits)
        number: NDArray[Any] = np.zeros(ones.shape[:2], np.uint32)
        for bit in range(bits):
            number = number << 1 | ones[..., bit]
        found[top : top + at_once] = number
    return found


def _undo_float_predictor(whole: NDArray[np.uint8], num_bytes: int, stride: int) -> NDArray[Any]:
    """Undo the third predictor: differences of bytes, the highest byte of all samples first.

    Source: Adobe Photoshop TIFF Technical Note 3.
    """
    rows = len(whole)
    summed = np.cumsum(whole.reshape(rows, -1, stride), axis=1, dtype=np.uint8)
    by_byte = summed.reshape(rows, num_bytes, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(by_byte).view(f">f{num_bytes}")[..., 0]


def row_slices(samples: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows, of so many samples at a time as stay in a core's cache."""
    at_once = max(_BAND_SAMPLES // max(samples[0].size, 1), 1)
    for top in range(0, len(samples), at_once):
        yield slice(top, top + at_once)
