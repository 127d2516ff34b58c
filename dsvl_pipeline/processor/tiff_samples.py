"""Samples of TIFFs that Pillow refuses or shows wrongly.

Pillow reads TIFFs of 8-bit samples well, and most compressions. What it gets wrong are other
samples: min-is-white of 16 bits, 10 to 14 bits, signed, unsigned 32 bits, floats. Those are read
here: Pillow only unpacks the bytes of each strip or tile.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from dsvl_pipeline.processor.tiff import Tags, floats_of, number_of, numbers_of
from dsvl_pipeline.processor.tiff_layout import (
    BLACK_IS_ZERO,
    BY_PILLOW,
    FLOAT,
    IS_CMYK,
    IS_ICC_LAB,
    IS_LAB,
    IS_PALETTE,
    IS_YCBCR,
    LOSSLESS,
    NO_COMPRESSION,
    PREDICTED,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    WORDS,
    Layout,
    layout_of,
    photometric_of,
    samples_of,
    subsampling_of,
    unknown_layout,
)

# Of an array of samples, converted at a time: what stays in a core's cache.
_BAND_SAMPLES = 1 << 17

# Of a strip or tile that is larger than its picture.
_MOST_PART_BYTES = 1 << 26

_REVERSED_BITS = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1]
)


def read_samples(data: bytes, tags: Tags) -> Image.Image:
    """Decode the first page of a file whose samples Pillow does not show as they are meant.

    Returns:
        A picture of a mode that Pillow converts to RGB, as it is stored: not turned.

    Raises:
        ImageError: With code ``image_samples``: nothing here knows such samples.
    """
    if not {256, 257} <= tags.keys() or not {273, 324} & tags.keys():
        raise OSError("the header is damaged or cut off")
    compression = number_of(tags, 259, 1)
    if compression in BY_PILLOW:
        raise unknown_layout(samples_of(tags))
    if compression not in LOSSLESS:
        raise unknown_layout(f"compression {compression}")
    if photometric_of(tags) == IS_YCBCR:
        return _ycbcr(data, tags)
    layout = layout_of(tags)
    samples = _samples(data, tags, layout)
    if layout.photometric == IS_PALETTE:
        return _by_palette(samples[..., 0], numbers_of(tags, 320, ()), layout)
    if layout.photometric in (IS_LAB, IS_ICC_LAB):
        return _lab(samples, layout)
    black, white = _range(tags, layout, samples[..., : layout.num_colours])
    shown = np.empty((layout.height, layout.width, layout.num_colours), np.uint8)
    for rows in _row_slices(samples):
        colours = _scaled(samples[rows, :, : layout.num_colours], black, white)
        if layout.photometric == WHITE_IS_ZERO:
            colours = 255 - colours
        if layout.alpha:
            full = 1.0 if layout.form == FLOAT else 2.0**layout.bits - 1
            alpha = _scaled(samples[rows, :, layout.num_colours, None], 0, full) / 255
            colours = 255 * (1 - alpha) + colours * (1 if layout.alpha == 1 else alpha)
        shown[rows] = np.rint(np.clip(colours, 0, 255))
    if layout.photometric == IS_CMYK:
        return Image.frombytes("CMYK", (layout.width, layout.height), shown.tobytes())
    return Image.fromarray(shown[..., 0] if layout.num_colours == 1 else shown)


def _samples(data: bytes, tags: Tags, layout: Layout) -> NDArray[Any]:
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
    """Tell whether the lower bits of words are all zero, or all repeat the upper ones.

    They repeat them where a shifter has filled up, so that white is all ones.
    """
    word = 8 * words.dtype.itemsize
    are_zero = are_repeated = True
    for rows in _row_slices(words):
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
    is_tiled = 324 in tags
    width, height = layout.width, layout.height
    across, down = layout.unit
    if is_tiled:
        part_width = -(-number_of(tags, 322, 0) // across)
        part_height = -(-number_of(tags, 323, 0) // down)
    else:
        part_width = width
        part_height = min(-(-number_of(tags, 278, height * down) // down), height)
    offsets = numbers_of(tags, 324 if is_tiled else 273, ())
    sizes = numbers_of(tags, 325 if is_tiled else 279, ())
    if part_width < 1 or part_height < 1 or part_width > 2 * width + 4096:
        raise OSError("the strips or tiles have no size")
    if not any(sizes):  # old files: up to what follows
        ends = sorted({*offsets, tags.offset, len(data)})
        sizes = tuple(ends[min(bisect(ends, n), len(ends) - 1)] - n for n in offsets)
    tops, lefts = range(0, height, part_height), range(0, width, part_width)
    num_planes = layout.num_samples if layout.is_planar else 1
    if min(len(offsets), len(sizes)) < num_planes * len(tops) * len(lefts):
        raise OSError("truncated: strips or tiles are missing")
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[layout.form]
    num_bytes = next(size for size in WORDS if size >= bits) // 8
    samples = np.empty((height, width, layout.num_samples), f"{kind}{num_bytes}")
    if part_width * part_height * num_bytes > max(samples.nbytes, _MOST_PART_BYTES):
        raise OSError(f"tiles of {part_width} x {part_height} for {width} x {height} pixels")
    parts = iter(zip(offsets, sizes, strict=False))
    for plane in range(num_planes):
        for top in tops:
            # Tiles are whole even where they stand out over the edge, strips are not.
            num_rows = part_height if is_tiled else min(part_height, height - top)
            for left in lefts:
                offset, size = next(parts)
                packed = data[offset : offset + size]
                unpacked = _part(packed, tags, layout, bits, num_rows + num_spare, part_width)
                of_plane = slice(plane, plane + 1) if layout.is_planar else slice(None)
                place = samples[top : top + part_height, left : left + part_width, of_plane]
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
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[layout.form]
    return words.view(f"{kind}{bits // 8}")


def _decompress(
    packed: bytes, compression: int, fill_order: int, row_bytes: int, num_rows: int
) -> NDArray[np.uint8]:
    """Give the bytes of a strip or tile, ``[rows, bytes]``, through a TIFF of 8-bit grey."""
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


def _range(tags: Tags, layout: Layout, colours: NDArray[Any]) -> tuple[float, float]:
    """Give what is shown as 0 and what as 255.

    What the file says itself (SMinSampleValue, SMaxSampleValue, or a MaxSampleValue of fewer bits)
    counts where all samples lie within. Else unsigned samples of up to 16 bits are shares of their
    greatest value, and floats from 0 to 1 of 1. Deeper and signed ones carry no white point: 8 or
    16 bits of them count as such, more than half of the range as all of it, and anything else,
    as other floats, is stretched from its least to its greatest value.
    """
    bits, form = layout.bits, layout.form
    least, most = _extremes(colours)
    lows, highs = floats_of(tags, 340), floats_of(tags, 341)
    if highs:
        low = min(lows) if lows else min(least, 0.0)
        if low < max(highs) and low <= least and most <= max(highs):
            return low, max(highs)
    if form == FLOAT:
        is_share = least >= 0 and most <= 1
        return (0.0, 1.0) if is_share else (least, most if most > least else least + 1)
    told = max(floats_of(tags, 281), default=0.0)
    if form == UNSIGNED and told in {2.0**n - 1 for n in range(9, bits)} and most <= told:
        return 0.0, told
    if form == UNSIGNED and bits <= 16:
        return 0.0, 2.0**bits - 1
    floor = 0.0 if form == UNSIGNED else -(2.0 ** (bits - 1))
    ceiling = floor + 2.0**bits - 1
    if least >= 0:
        if bits > 8 and most <= 255:
            return 0.0, 255.0
        if bits > 16 and most <= 65535:
            return 0.0, 65535.0
        if bits <= 16:  # and signed
            return 0.0, ceiling
    if most - least >= (ceiling - floor) / 2:
        return floor, ceiling
    return least, most if most > least else least + 1


def _extremes(colours: NDArray[Any]) -> tuple[float, float]:
    least, most = np.inf, -np.inf
    for rows in _row_slices(colours):
        band = colours[rows]
        if band.dtype.kind == "f":
            band = band[np.isfinite(band)]
        if band.size:
            least, most = min(least, float(band.min())), max(most, float(band.max()))
    return (least, most) if least <= most else (0.0, 0.0)


def _row_slices(samples: NDArray[Any]) -> Iterator[slice]:
    at_once = max(_BAND_SAMPLES // max(samples[0].size, 1), 1)
    for top in range(0, len(samples), at_once):
        yield slice(top, top + at_once)


def _scaled(samples: NDArray[Any], black: float, white: float) -> NDArray[np.float64]:
    """Bring samples to 0 to 255; what is no number is black."""
    numbers = np.nan_to_num(samples.astype(np.float64), posinf=white, neginf=black)
    return np.clip((numbers - black) * (255 / (white - black)), 0, 255)


def _by_palette(indices: NDArray[Any], entries: tuple[int, ...], layout: Layout) -> Image.Image:
    if len(entries) < 3 << layout.bits:
        raise OSError("truncated: the palette is too short")
    colours = np.array(entries[: 3 << layout.bits], np.uint32).reshape(3, -1).T
    shift = 8 if colours.max(initial=0) > 255 else 0
    return Image.fromarray((colours >> shift).astype(np.uint8)[indices])


def _ycbcr(data: bytes, tags: Tags) -> Image.Image:
    """Read YCbCr that is stored by units of pixels: the luma of each, then what they share.

    Source: TIFF 6.0, section 21.
    """
    (across, down), is_planar = subsampling_of(tags), number_of(tags, 284, 1) == 2
    weights, bits = floats_of(tags, 529), numbers_of(tags, 258, (8,))
    if (
        not {across, down} <= {1, 2, 4}
        or (is_planar and (across, down) != (1, 1))
        or set(bits) != {8}
        or number_of(tags, 277, 3) != 3
        or (weights and not np.allclose(weights, (0.299, 0.587, 0.114), atol=1e-3))
    ):
        raise unknown_layout(
            f"YCbCr of {'/'.join(map(str, bits))} bits, {across} by {down} pixels to a colour"
        )
    width, height, num = number_of(tags, 256, 0), number_of(tags, 257, 0), across * down
    layout = Layout(
        width=-(-width // across), height=-(-height // down), photometric=IS_YCBCR,
        form=UNSIGNED, bits=8, num_samples=num + 2, alpha=0, is_planar=is_planar,
        unit=(across, down),
    )  # fmt: skip
    units = _gather(data, tags, layout, 8)
    blocks = units[..., :num].reshape(layout.height, layout.width, down, across)
    luma = blocks.transpose(0, 2, 1, 3).reshape(layout.height * down, -1)
    shared = units[..., num:].repeat(down, axis=0).repeat(across, axis=1)
    samples = np.dstack([luma, shared])[:height, :width]
    ranges = floats_of(tags, 532)
    if len(ranges) == 6:  # black and white of luma; of colours, none and most
        for sample, (zero, full) in enumerate(((0, 255), (128, 255), (128, 255))):
            black, white = ranges[2 * sample : 2 * sample + 2]
            if (black, white) != (zero, full) and white > black:
                table = (np.arange(256) - black) * ((full - zero) / (white - black)) + zero
                samples[..., sample] = np.rint(table.clip(0, 255)).astype(np.uint8)[
                    samples[..., sample]
                ]
    return Image.frombytes("YCbCr", (width, height), samples.tobytes())


def _lab(samples: NDArray[Any], layout: Layout) -> Image.Image:
    """Give CIE or ICC L*a*b* of 8 or 16 bits as Pillow reads it: a* and b* signed."""
    shift = layout.bits - 8
    lab = (samples[..., :3].view(f"u{samples.dtype.itemsize}") >> shift).astype(np.uint8)
    if layout.photometric == IS_ICC_LAB:  # where 128 is zero
        lab[..., 1:] ^= 0x80
    return Image.frombytes("LAB", (layout.width, layout.height), lab.tobytes())
