"""TIFF files: where their pages lie, and what their tags say."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass

import numpy as np
from PIL import TiffImagePlugin

# Of each type of values that are not of one byte.
_BYTES_OF = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

Tags = TiffImagePlugin.ImageFileDirectory_v2

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType

_ENTRIES_READ = 64  # tags ascend, so that of the subfile is among the first

# So many pages as may be counted, each with the copies and masks that GDAL puts beside it.
_MOST_DIRECTORIES = 200_000

_IMAGEJ = re.compile(r"\AImageJ=.*?^images=(\d{1,9})$", re.DOTALL | re.MULTILINE)


def is_tiff(data: bytes) -> bool:
    """Return whether this is a TIFF by its first bytes, BigTIFF included."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def pages(data: bytes, *, most: int) -> list[int]:
    """Find the first pages of a TIFF: where their directories lie.

    Smaller copies and masks of a page are none. A chain of directories that runs in a circle ends
    where it closes; one that leads out of the file has one more page, which cannot be read.

    Args:
        data: The file.
        most: So many pages at most are looked for. Which ones they are does not depend on it.
    """
    form = _form_of(data)
    found, others, seen = list[int](), list[int](), set[int]()
    try:
        (at,) = struct.unpack_from(form.offset, data, form.first_at)
    except struct.error:
        return []
    while at and at not in seen and len(found) < most:
        if len(seen) == _MOST_DIRECTORIES:
            if found:  # what is left out must not be so in silence
                found.append(len(data))
            break
        seen.add(at)
        try:
            (count,) = struct.unpack_from(form.count, data, at)
            entries_at = at + struct.calcsize(form.count)
            end = entries_at + count * struct.calcsize(form.entry)
            (following,) = struct.unpack_from(form.offset, data, end)
        except (struct.error, OverflowError):
            found.append(at)
            break
        kind = _subfile_type(data, form, entries_at, count)
        (others if kind & (_REDUCED | _MASK) else found).append(at)
        at = following
    # Where all of them claim to be copies, none of them is.
    return found or others[:most]


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers are laid out in a file, as `struct` spells it: plain or BigTIFF, either order.

    Attributes:
        order: Of bytes.
        count: How many entries a directory has.
        entry: One of them: tag, type, number of values, and the values or where they lie.
        offset: Where a directory lies.
        first_at: Where the offset of the first one lies.
    """

    order: str
    count: str
    entry: str
    offset: str
    first_at: int


def _form_of(data: bytes) -> _Form:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return _Form(order, f"{order}Q", f"{order}HHQ8s", f"{order}Q", 8)
    return _Form(order, f"{order}H", f"{order}HHI4s", f"{order}I", 4)


def _subfile_type(data: bytes, form: _Form, entries_at: int, count: int) -> int:
    """Read NewSubfileType, or what the older tag says in its terms; 0 without either."""
    size = struct.calcsize(form.entry)
    tag_form = f"H{size - 2}x" * min(count, _ENTRIES_READ)
    tags = struct.unpack_from(form.order + tag_form, data, entries_at)
    tag = next((tag for tag in (254, 255) if tag in tags), None)
    if tag is None:
        return 0
    at = entries_at + tags.index(tag) * size
    _, kind, _, value = struct.unpack_from(form.entry, data, at)
    number: int
    (number,) = struct.unpack_from(form.order + ("H" if kind == 3 else "I"), value)
    return number if tag == 254 else int(number == 2)  # of the older one 2 is reduced


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
        """Return the file with another beginning, until the next call."""
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
    """Return a directory of a big-endian BigTIFF, which Pillow does not know, as a plain TIFF's.

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
    """Return how many times as dense the pixels of a row lie as those of a column.

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
    first, size = min(numbers_of(tags, 273, (0,))), sum(numbers_of(tags, 279, (0,)))
    if num > 1 and first + num * size <= len(data):  # else somebody has cut out this one
        return num
    return max(number_of(tags, 32997, 1), 1)


def number_of(tags: Tags, tag: int, default: int) -> int:
    """Return a tag's first value, as `numbers_of` does."""
    return numbers_of(tags, tag, (default,))[0]


def numbers_of(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return a tag's values; the default where it is missing or holds no whole numbers."""
    found = tags.get(tag, default)
    values = found if isinstance(found, tuple) else (found,)
    return values if values and all(type(value) is int for value in values) else default


def floats_of(tags: Tags, tag: int) -> tuple[float, ...]:
    """Return a tag's values that are finite numbers."""
    found = tags.get(tag, ())
    values = found if isinstance(found, tuple) else (found,)
    try:
        return tuple(value for value in map(float, values) if np.isfinite(value))
    except (TypeError, ValueError, ZeroDivisionError):
        return ()
