"""TIFF files: where their pages lie, and samples that Pillow refuses or shows wrongly.

Pillow reads TIFFs of 8-bit samples well, and most compressions. What it gets wrong are other
samples: min-is-white of 16 bits, 10 to 14 bits, signed, unsigned 32 bits, floats. Those are read
here: Pillow only unpacks the bytes of each strip or tile.
"""

from __future__ import annotations

import io
import re
import struct
from bisect import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from dsvl_pipeline.errors import ImageError

# Of each type of values that are not of one byte.
_BYTES_OF = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
Tags = TiffImagePlugin.ImageFileDirectory_v2
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_ENTRIES_READ = 64  # tags ascend, so that of the subfile is among the first
# So many pages as may be counted, each with the copies and masks that GDAL puts beside it.
_MOST_DIRECTORIES = 200_000
# Of an array of samples, converted at a time: what stays in a core's cache.
_BAND_SAMPLES = 1 << 17

WHITE_IS_ZERO, BLACK_IS_ZERO, IS_RGB, IS_PALETTE, IS_CMYK, IS_YCBCR = 0, 1, 2, 3, 5, 6
IS_LAB, IS_ICC_LAB = 8, 9
_NUM_COLOURS = {
    WHITE_IS_ZERO: 1,
    BLACK_IS_ZERO: 1,
    IS_RGB: 3,
    IS_PALETTE: 1,
    IS_CMYK: 4,
    IS_LAB: 3,
    IS_ICC_LAB: 3,
}
_IMAGEJ = re.compile(r"\AImageJ=.*?^images=(\d{1,9})$", re.DOTALL | re.MULTILINE)
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4
_WORDS = (8, 16, 32, 64)  # bits that Numpy has a type for
_NO_COMPRESSION = 1
# Of a strip or tile that is larger than its picture.
_MOST_PART_BYTES = 1 << 26
# LZW, deflate (twice), PackBits, LZMA, Zstandard: what gives back the very bytes.
_PREDICTED = (5, 8, 32946, 34925, 50000)  # those that know of differences
_LOSSLESS = (_NO_COMPRESSION, 32773, *_PREDICTED)
_FAXES = (2, 3, 4, 32771)
# Faxes, JPEG's old form and JPEG, ThunderScan: what Pillow unpacks besides.
_BY_PILLOW = (*_FAXES, 6, 7, 32809)
_REVERSED_BITS = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1]
)


def is_tiff(data: bytes) -> bool:
    """Tell a TIFF by its first bytes, BigTIFF included."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def pages(data: bytes, *, most: int) -> list[int]:
    """Find the first pages of a TIFF: where their directories lie.

    Smaller copies and masks of a page are none. A chain of directories that runs in a circle ends
    where it closes; one that leads out of the file has one more page, which cannot be read.

    Args:
        data: The file.
        most: So many pages at most are looked for. Which ones they are does not depend on it.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    count_form, entry_form, offset_form = (
        (f"{order}Q", f"{order}HHQ8s", f"{order}Q")
        if is_big
        else (f"{order}H", f"{order}HHI4s", f"{order}I")
    )
    entry_size, after_count = struct.calcsize(entry_form), struct.calcsize(count_form)
    tag_form = f"H{entry_size - 2}x"
    found, others, seen = list[int](), list[int](), set[int]()
    try:
        (at,) = struct.unpack_from(offset_form, data, 8 if is_big else 4)
    except struct.error:
        return []
    while at and at not in seen and len(found) < most:
        if len(seen) == _MOST_DIRECTORIES:
            if found:  # what is left out must not be so in silence
                found.append(len(data))
            break
        seen.add(at)
        try:
            (count,) = struct.unpack_from(count_form, data, at)
            (following,) = struct.unpack_from(
                offset_form, data, at + after_count + count * entry_size
            )
        except (struct.error, OverflowError):
            found.append(at)
            break
        kind, num_read = 0, min(count, _ENTRIES_READ)
        tags = struct.unpack_from(order + tag_form * num_read, data, at + after_count)
        tag = next((tag for tag in (254, 255) if tag in tags), None)
        if tag is not None:
            place = at + after_count + tags.index(tag) * entry_size
            _, form, _, value = struct.unpack_from(entry_form, data, place)
            (number,) = struct.unpack_from(order + ("H" if form == 3 else "I"), value)
            kind = number if tag == 254 else int(number == 2)  # the older tag: 2 is reduced
        (others if kind & (_REDUCED | _MASK) else found).append(at)
        at = following
    # Where all of them claim to be copies, none of them is.
    return found or others[:most]


class Pages:
    """The pages of a TIFF, looked for once, and each opened as the first one of its file.

    Looking for each of them anew, or copying the file for each, would make the time that a file
    takes grow with the square of their number.

    Args:
        data: The file.
        most: So many pages at most are looked for.
    """

    def __init__(self, data: bytes, *, most: int) -> None:
        self._data = data
        self._directories = pages(data, most=most)
        self._copy: bytearray | None = None

    def __len__(self) -> int:
        return len(self._directories)

    def open(self, index: int) -> io.BytesIO:
        """Open the same file with a page as its first one."""
        data, at = self._data, self._directories[index]
        if data[:4] == b"MM\0+":
            plain = data[:2] + struct.pack(">HI", 42, len(data)) + data[8:] + _classic(data, at)
            return io.BytesIO(plain)
        if data[:4] == b"II+\0":
            header = data[:8] + struct.pack("<Q", at)
        else:
            header = data[:4] + struct.pack("<I" if data[:2] == b"II" else ">I", at)
        return io.BytesIO(data) if data.startswith(header) else _Redirected(self, header)

    def with_header(self, header: bytes) -> bytearray:
        """Give the file with another beginning, until the next call."""
        if self._copy is None:
            self._copy = bytearray(self._data)
        self._copy[: len(header)] = header
        return self._copy


class _Redirected(io.BytesIO):
    """A file whose header names another directory as the first.

    Only libtiff, through `getvalue`, needs a copy of it, so that no damage of the first page
    reaches the others.
    """

    def __init__(self, found: Pages, header: bytes) -> None:
        super().__init__(found._data)
        self._pages, self._header = found, header

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        found = super().read(size)
        ours = self._header[at : at + len(found)]
        return ours + found[len(ours) :] if ours else found

    def getvalue(self) -> bytearray:  # type: ignore[override]  # Pillow takes any buffer
        return self._pages.with_header(self._header)


def _classic(data: bytes, at: int) -> bytes:
    """Give a directory of a big-endian BigTIFF, which Pillow does not know, as a plain TIFF's.

    It stands behind the file, and what its entries point to stays where it is.
    """
    (count,) = struct.unpack_from(">Q", data, at)
    tables = len(data) + 2 + 12 * count + 4
    entries, moved = list[bytes](), bytearray()
    for tag, form, number, value in struct.iter_unpack(
        ">HHQ8s", data[at + 8 : at + 8 + 20 * count]
    ):
        size = number * _BYTES_OF.get(form, 1)
        (place,) = struct.unpack(">Q", value)
        if form in (16, 17, 18):  # eight bytes where four will do
            body = data[place : place + size] if size > 8 else value[:size]
            low = b"".join(body[start + 4 : start + 8] for start in range(0, len(body), 8))
            value, form, size = low, 4, len(low)
        elif size > 8:
            entries.append(struct.pack(">HHII", tag, form, number, place))
            continue
        else:
            value = value[:size]
        if size > 4:
            entries.append(struct.pack(">HHII", tag, form, number, tables + len(moved)))
            moved += value
        else:
            entries.append(struct.pack(">HHI", tag, form, number) + value.ljust(4, b"\0"))
    return struct.pack(">H", count) + b"".join(entries) + bytes(4) + bytes(moved)


def read_tags(file: io.BytesIO) -> Tags:
    """Read the directory of the first page."""
    file.seek(0)
    header = file.read(16)
    tags = Tags(header if header[2:4] in (b"+\0", b"\0+") else header[:8])
    file.seek(tags.next)
    tags.load(file)
    file.seek(0)
    return tags


def stretch_of(tags: Tags) -> float:
    """Give how many times as dense the pixels of a row lie as those of a column.

    1 where the file does not say so. Without a unit it is a ratio all the same.
    """
    try:
        return float(tags[282]) / float(tags[283])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 1.0


def num_slices(data: bytes, tags: Tags) -> int:
    """Count the pictures that share a page's one directory: those of microscopes lie behind it.

    ImageJ says in the description how many there are, MetaMorph by a list of all of them, others
    by a depth.
    """
    description = tags.get(270, "")
    told = _IMAGEJ.search(description) if isinstance(description, str) else None
    listed = tags.get(33629, ())
    num = int(told[1]) if told else len(listed) if isinstance(listed, tuple) else 1
    first, size = min(_numbers(tags, 273, (0,))), sum(_numbers(tags, 279, (0,)))
    if num > 1 and first + num * size <= len(data):  # else somebody has cut out this one
        return num
    return max(_number(tags, 32997, 1), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the samples of a page lie in its file.

    Attributes:
        width: In pixels.
        height: In pixels.
        photometric: What samples mean.
        form: 1 unsigned, 2 signed, 3 floating point.
        bits: Of each sample.
        num_samples: Of a pixel.
        alpha: 0 where there is none, 1 premultiplied, 2 not.
        is_planar: Whether each sample has strips of its own.
        unit: Pixels across and down that are stored as one, of which width and height are the
            numbers.
    """

    width: int
    height: int
    photometric: int
    form: int
    bits: int
    num_samples: int
    alpha: int
    is_planar: bool
    unit: tuple[int, int] = (1, 1)

    @property
    def num_colours(self) -> int:
        return _NUM_COLOURS[self.photometric]


def has_plain_samples(tags: Tags) -> bool:
    """Tell whether Pillow shows a page's samples as they are meant, or does not know them."""
    bits, forms = _numbers(tags, 258, (1,)), _numbers(tags, 339, (1,))
    photometric, is_planar = _photometric(tags), _number(tags, 284, 1) == 2
    compression = _number(tags, 259, 1)
    if compression not in _LOSSLESS:
        return compression in _BY_PILLOW
    if photometric == IS_YCBCR:
        # Where it lies open, Pillow takes it for three samples of each pixel.
        return compression != _NO_COMPRESSION or (_subsampling(tags) == (1, 1) and not is_planar)
    if set(forms) != {_UNSIGNED} or is_planar or 262 not in tags:
        return False
    if photometric == IS_PALETTE:
        # Entries have 16 bits; some programs write 8, which Pillow would shift to black.
        entries = _numbers(tags, 320, ())
        return set(bits) <= {1, 2, 4, 8} and max(entries, default=0) > 255
    if photometric in (IS_LAB, IS_ICC_LAB):
        return photometric == IS_LAB and set(bits) == {8}
    if set(bits) == {16} and photometric in (IS_RGB, IS_CMYK):
        return True
    if photometric == WHITE_IS_ZERO and _number(tags, 277, 1) > 1:
        return False
    return set(bits) <= {1, 2, 4, 8}


class UntoldTiff(TiffImagePlugin.TiffImageFile):
    """A page without a photometric interpretation: Pillow would take all of them for negatives."""

    def _setup(self) -> None:
        self.tag_v2[262] = _photometric(self.tag_v2)
        super()._setup()


def _photometric(tags: Tags) -> int:
    """Give what samples mean; where the file does not say so, what libtiff shows."""
    if 262 not in tags and _number(tags, 259, 1) in _FAXES:
        return WHITE_IS_ZERO
    num_colours = _number(tags, 277, 1) - len(_numbers(tags, 338, ()))
    return _number(tags, 262, IS_RGB if num_colours == 3 else BLACK_IS_ZERO)


def _subsampling(tags: Tags) -> tuple[int, int]:
    """Give how many pixels across and down share one colour in YCbCr.

    Two by two is the standard's default, which some programs that store all of them leave out.
    """
    told = _numbers(tags, 530, ())
    if len(told) != 2:
        is_full = sum(_numbers(tags, 279, ())) >= 3 * _number(tags, 256, 0) * _number(tags, 257, 0)
        return (1, 1) if is_full else (2, 2)
    return told[0], told[1]


def read_samples(data: bytes, tags: Tags) -> Image.Image:
    """Decode the first page of a file whose samples Pillow does not show as they are meant.

    Returns:
        A picture of a mode that Pillow converts to RGB, as it is stored: not turned.

    Raises:
        ImageError: With code ``image_samples``: nothing here knows such samples.
    """
    if not {256, 257} <= tags.keys() or not {273, 324} & tags.keys():
        raise OSError("the header is damaged or cut off")
    compression = _number(tags, 259, 1)
    if compression in _BY_PILLOW:
        raise _unknown(_samples_of(tags))
    if compression not in _LOSSLESS:
        raise _unknown(f"compression {compression}")
    if _photometric(tags) == IS_YCBCR:
        return _ycbcr(data, tags)
    layout = _layout(tags)
    samples = _samples(data, tags, layout)
    if layout.photometric == IS_PALETTE:
        return _by_palette(samples[..., 0], _numbers(tags, 320, ()), layout)
    if layout.photometric in (IS_LAB, IS_ICC_LAB):
        return _lab(samples, layout)
    black, white = _range(tags, layout, samples[..., : layout.num_colours])
    shown = np.empty((layout.height, layout.width, layout.num_colours), np.uint8)
    for rows in _row_slices(samples):
        colours = _scaled(samples[rows, :, : layout.num_colours], black, white)
        if layout.photometric == WHITE_IS_ZERO:
            colours = 255 - colours
        if layout.alpha:
            full = 1.0 if layout.form == _FLOAT else 2.0**layout.bits - 1
            alpha = _scaled(samples[rows, :, layout.num_colours, None], 0, full) / 255
            colours = 255 * (1 - alpha) + colours * (1 if layout.alpha == 1 else alpha)
        shown[rows] = np.rint(np.clip(colours, 0, 255))
    if layout.photometric == IS_CMYK:
        return Image.frombytes("CMYK", (layout.width, layout.height), shown.tobytes())
    return Image.fromarray(shown[..., 0] if layout.num_colours == 1 else shown)


def _layout(tags: Tags) -> _Layout:
    bits, forms = _numbers(tags, 258, (1,)), _numbers(tags, 339, (1,))
    photometric = _photometric(tags)
    num_samples = _number(tags, 277, len(bits))
    form = _UNSIGNED if forms[0] == _VOID else forms[0]
    extras = _numbers(tags, 338, ())
    num_colours = _NUM_COLOURS.get(photometric, 0)
    most_bits = 64 if form == _FLOAT or bits[0] == 64 else 32
    if (
        not num_colours
        or not num_colours <= num_samples <= 16
        or len(set(bits)) > 1
        or len(set(forms)) > 1
        or form not in (_UNSIGNED, _SIGNED, _FLOAT)
        or not 1 <= bits[0] <= most_bits
        or (form == _FLOAT and bits[0] not in (16, 32, 64))
        or (form == _SIGNED and bits[0] not in (8, 16, 32, 64))
        or (photometric == IS_PALETTE and (form != _UNSIGNED or bits[0] > 16))
        or (photometric in (IS_LAB, IS_ICC_LAB) and bits[0] not in (8, 16))
    ):
        raise _unknown(_samples_of(tags))
    alpha = extras[0] if extras and extras[0] in (1, 2) else 0
    if not extras and photometric == IS_RGB and num_samples == 4:
        alpha = 2  # as Pillow has it
    return _Layout(
        width=_number(tags, 256, 0),
        height=_number(tags, 257, 0),
        photometric=photometric,
        form=form,
        bits=bits[0],
        num_samples=num_samples,
        alpha=alpha if num_samples > num_colours else 0,
        is_planar=_number(tags, 284, 1) == 2 and num_samples > 1,
    )


def _samples_of(tags: Tags) -> str:
    """Say what the samples of a page are, for an error."""
    bits, forms = _numbers(tags, 258, (1,)), _numbers(tags, 339, (1,))
    return (
        f"compression {_number(tags, 259, 1)}, photometric interpretation {_photometric(tags)}, "
        f"{_number(tags, 277, len(bits))} samples of {'/'.join(map(str, sorted(set(bits))))} bits, "
        f"sample format {'/'.join(map(str, sorted(set(forms))))}"
    )


def _unknown(what: str) -> ImageError:
    return ImageError(
        "image_samples",
        f"decoding the image: a TIFF with {what} is not read, so that no wrong picture is shown; "
        "convert it to 8-bit grey or RGB, compressed by LZW or not at all",
    )


def _samples(data: bytes, tags: Tags, layout: _Layout) -> NDArray[Any]:
    """Read all samples, ``[height, width, sample]``, each as the number that its bits make.

    By the standard they are packed, bit after bit. Some cameras and programs give each of 9 to 15
    bits a word instead, where they fill its lower bits or, as the sensor has them, the upper ones.
    Such strips are longer, and no longer than that; and the spare bits of all words tell it, as a
    strip of packed samples may be filled up to just that length.
    """
    bits = layout.bits
    if bits in _WORDS:
        return _gather(data, tags, layout, bits)
    word = next(size for size in _WORDS if size > bits)
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
    data: bytes, tags: Tags, layout: _Layout, bits: int, *, num_spare: int = 0
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
        part_width = -(-_number(tags, 322, 0) // across)
        part_height = -(-_number(tags, 323, 0) // down)
    else:
        part_width = width
        part_height = min(-(-_number(tags, 278, height * down) // down), height)
    offsets = _numbers(tags, 324 if is_tiled else 273, ())
    sizes = _numbers(tags, 325 if is_tiled else 279, ())
    if part_width < 1 or part_height < 1 or part_width > 2 * width + 4096:
        raise OSError("the strips or tiles have no size")
    if not any(sizes):  # old files: up to what follows
        ends = sorted({*offsets, tags.offset, len(data)})
        sizes = tuple(ends[min(bisect(ends, n), len(ends) - 1)] - n for n in offsets)
    tops, lefts = range(0, height, part_height), range(0, width, part_width)
    num_planes = layout.num_samples if layout.is_planar else 1
    if min(len(offsets), len(sizes)) < num_planes * len(tops) * len(lefts):
        raise OSError("truncated: strips or tiles are missing")
    kind = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}[layout.form]
    num_bytes = next(size for size in _WORDS if size >= bits) // 8
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
    packed: bytes, tags: Tags, layout: _Layout, bits: int, num_rows: int, width: int
) -> NDArray[Any]:
    """Unpack one strip or tile, ``[rows, width, samples]``."""
    stride = 1 if layout.is_planar else layout.num_samples
    num = width * stride
    compression, fill_order = _number(tags, 259, 1), _number(tags, 266, 1)
    predictor = _number(tags, 317, 1) if compression in _PREDICTED else 1
    order = "<" if tags.prefix == b"II" else ">"
    whole = _decompress(packed, compression, fill_order, -(-num * bits // 8), num_rows)
    if predictor == 3 and layout.form == _FLOAT:
        return _undo_float_predictor(whole, bits // 8, stride).reshape(num_rows, width, stride)
    if bits not in _WORDS:
        if predictor != 1:
            raise _unknown(f"differences of {bits}-bit samples (predictor {predictor})")
        return _unpack_bits(whole, num, bits, order).reshape(num_rows, width, stride)
    words = whole.view(f"{order}u{bits // 8}").reshape(num_rows, width, stride)
    words = words.astype(f"u{bits // 8}")
    if predictor == 2:
        words = np.cumsum(words, axis=1, dtype=words.dtype)
    elif predictor != 1:
        raise _unknown(f"predictor {predictor}")
    kind = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}[layout.form]
    return words.view(f"{kind}{bits // 8}")


def _decompress(
    packed: bytes, compression: int, fill_order: int, row_bytes: int, num_rows: int
) -> NDArray[np.uint8]:
    """Give the bytes of a strip or tile, ``[rows, bytes]``, through a TIFF of 8-bit grey."""
    if compression == _NO_COMPRESSION:
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


def _range(tags: Tags, layout: _Layout, colours: NDArray[Any]) -> tuple[float, float]:
    """Give what is shown as 0 and what as 255.

    What the file says itself (SMinSampleValue, SMaxSampleValue, or a MaxSampleValue of fewer bits)
    counts where all samples lie within. Else unsigned samples of up to 16 bits are shares of their
    greatest value, and floats from 0 to 1 of 1. Deeper and signed ones carry no white point: 8 or
    16 bits of them count as such, more than half of the range as all of it, and anything else,
    as other floats, is stretched from its least to its greatest value.
    """
    bits, form = layout.bits, layout.form
    least, most = _extremes(colours)
    lows, highs = _floats(tags, 340), _floats(tags, 341)
    if highs:
        low = min(lows) if lows else min(least, 0.0)
        if low < max(highs) and low <= least and most <= max(highs):
            return low, max(highs)
    if form == _FLOAT:
        is_share = least >= 0 and most <= 1
        return (0.0, 1.0) if is_share else (least, most if most > least else least + 1)
    told = max(_floats(tags, 281), default=0.0)
    if form == _UNSIGNED and told in {2.0**n - 1 for n in range(9, bits)} and most <= told:
        return 0.0, told
    if form == _UNSIGNED and bits <= 16:
        return 0.0, 2.0**bits - 1
    floor = 0.0 if form == _UNSIGNED else -(2.0 ** (bits - 1))
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


def _by_palette(indices: NDArray[Any], entries: tuple[int, ...], layout: _Layout) -> Image.Image:
    if len(entries) < 3 << layout.bits:
        raise OSError("truncated: the palette is too short")
    colours = np.array(entries[: 3 << layout.bits], np.uint32).reshape(3, -1).T
    shift = 8 if colours.max(initial=0) > 255 else 0
    return Image.fromarray((colours >> shift).astype(np.uint8)[indices])


def _ycbcr(data: bytes, tags: Tags) -> Image.Image:
    """Read YCbCr that is stored by units of pixels: the luma of each, then what they share.

    Source: TIFF 6.0, section 21.
    """
    (across, down), is_planar = _subsampling(tags), _number(tags, 284, 1) == 2
    weights, bits = _floats(tags, 529), _numbers(tags, 258, (8,))
    if (
        not {across, down} <= {1, 2, 4}
        or (is_planar and (across, down) != (1, 1))
        or set(bits) != {8}
        or _number(tags, 277, 3) != 3
        or (weights and not np.allclose(weights, (0.299, 0.587, 0.114), atol=1e-3))
    ):
        raise _unknown(
            f"YCbCr of {'/'.join(map(str, bits))} bits, {across} by {down} pixels to a colour"
        )
    width, height, num = _number(tags, 256, 0), _number(tags, 257, 0), across * down
    layout = _Layout(
        width=-(-width // across), height=-(-height // down), photometric=IS_YCBCR,
        form=_UNSIGNED, bits=8, num_samples=num + 2, alpha=0, is_planar=is_planar,
        unit=(across, down),
    )  # fmt: skip
    units = _gather(data, tags, layout, 8)
    blocks = units[..., :num].reshape(layout.height, layout.width, down, across)
    luma = blocks.transpose(0, 2, 1, 3).reshape(layout.height * down, -1)
    shared = units[..., num:].repeat(down, axis=0).repeat(across, axis=1)
    samples = np.dstack([luma, shared])[:height, :width]
    ranges = _floats(tags, 532)
    if len(ranges) == 6:  # black and white of luma; of colours, none and most
        for sample, (zero, full) in enumerate(((0, 255), (128, 255), (128, 255))):
            black, white = ranges[2 * sample : 2 * sample + 2]
            if (black, white) != (zero, full) and white > black:
                table = (np.arange(256) - black) * ((full - zero) / (white - black)) + zero
                samples[..., sample] = np.rint(table.clip(0, 255)).astype(np.uint8)[
                    samples[..., sample]
                ]
    return Image.frombytes("YCbCr", (width, height), samples.tobytes())


def _lab(samples: NDArray[Any], layout: _Layout) -> Image.Image:
    """Give CIE or ICC L*a*b* of 8 or 16 bits as Pillow reads it: a* and b* signed."""
    shift = layout.bits - 8
    lab = (samples[..., :3].view(f"u{samples.dtype.itemsize}") >> shift).astype(np.uint8)
    if layout.photometric == IS_ICC_LAB:  # where 128 is zero
        lab[..., 1:] ^= 0x80
    return Image.frombytes("LAB", (layout.width, layout.height), lab.tobytes())


def _number(tags: Tags, tag: int, default: int) -> int:
    return _numbers(tags, tag, (default,))[0]


def _numbers(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Give a tag's values; the default where it is missing or holds no whole numbers."""
    found = tags.get(tag, default)
    values = found if isinstance(found, tuple) else (found,)
    return values if values and all(type(value) is int for value in values) else default


def _floats(tags: Tags, tag: int) -> tuple[float, ...]:
    found = tags.get(tag, ())
    values = found if isinstance(found, tuple) else (found,)
    try:
        return tuple(value for value in map(float, values) if np.isfinite(value))
    except (TypeError, ValueError, ZeroDivisionError):
        return ()
