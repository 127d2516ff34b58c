"""Bytes to pixels: decode, convert to RGB, letterbox, low-resolution copy. All on uint8.

Global state of Pillow is left alone: other code in a worker may depend on it. The picture's size
is checked here before anything is decompressed, and Pillow's own check for decompression bombs,
whatever its limit is set to, can only refuse more.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor import tiff, tiff_layout, tiff_samples
from dsvl_pipeline.processor.colours import to_rgb
from dsvl_pipeline.processor.kinds import kind_of
from dsvl_pipeline.processor.orientation import LYING, turn
from dsvl_pipeline.processor.refusals import (
    ACCEPTED,
    FORMATS,
    MAGIC,
    MAX_PIXELS,
    check_size,
    decoding_error,
)
from dsvl_pipeline.wording import amount

MOST_FRAMES_COUNTED = 10_000

# Densities of rows and columns that differ by less are no distortion that anybody sees, and by
# more no device's: a fax has 204 by 98 to the inch, an odd printer 360 by 120.
STRETCHED, MOST_STRETCHED = 1.1, 4.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture of a file.

    Attributes:
        image: RGB, upright.
        num_frames: How many pictures the file holds, counted up to `MOST_FRAMES_COUNTED`.
        holds: What they are: pages of a TIFF, slices of one that has no pages (`tiff.num_slices`),
            frames of an animation, or what a camera puts beside its picture: a second lens's, a
            gain map, a preview.
    """

    image: Image.Image
    num_frames: int
    holds: Literal["pages", "slices", "frames", "views"] = "frames"


def decode(data: bytes) -> Image.Image:
    """Read the first picture of a file, see `decode_frame`."""
    return decode_frame(data).image


def decode_frame(data: bytes, page_index: int = 0, *, pages: tiff.Pages | None = None) -> Frame:
    """Read a picture file into an upright RGB picture on white, as a viewer shows it.

    A page of a TIFF, and of anything else the first frame; EXIF orientation applied; alpha
    composited on white; deep samples scaled to 8 bits, not clipped; pixels made square where a
    TIFF, or a 1-bit PNG or BMP, says that they are not.

    Args:
        data: The file.
        page_index: From 0; only of a TIFF may it be another.
        pages: Of the file, where several are read; else they are looked for.

    Raises:
        ImageError: With code ``image_format``, ``image_truncated``, ``image_unreadable``,
            ``image_samples`` or ``image_too_large``.
    """
    if not data:
        raise ImageError("image_truncated", f"the image has 0 bytes; {ACCEPTED}; fetch it again")
    try:
        if tiff.is_tiff(data):
            return _decode_tiff(data, page_index, pages)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            stretch, covered = _stretch_of(image), _covered(image, data)
            if image.format == "PNG":
                _scale_transparency(image, data[24])
            return Frame(
                image=_squared(to_rgb(image, covered=covered), stretch),
                num_frames=_num_frames(image, data),
                holds="views" if image.format == "MPO" else "frames",
            )
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unknown_format(data) from error
    # Hostile files make the decoders raise OSError, ValueError, SyntaxError, struct.error,
    # OverflowError, NotImplementedError and more: here, whatever its name, it is bad data.
    except Exception as error:
        raise decoding_error(error, data) from error


def _unknown_format(data: bytes) -> ImageError:
    """Make the error for bytes that no decoder takes for its own."""
    if any(magic in data[:12] for magic in MAGIC):
        return decoding_error(OSError("the header is damaged or cut off"), data)
    kind = kind_of(data)
    return ImageError(
        "image_format",
        f"decoding the image: {amount(len(data), 'byte')} starting with {data[:12]!r} "
        f"{f'({kind}) ' if kind else ''}in no format that is read; {ACCEPTED}; convert the file "
        "or remove the row",
    )


def _decode_tiff(data: bytes, page_index: int, pages: tiff.Pages | None) -> Frame:
    if pages is None:
        most = MOST_FRAMES_COUNTED if page_index == 0 else page_index + 1
        pages = tiff.Pages(data, most=most)
    if page_index and page_index >= len(pages):
        raise OSError(
            f"truncated: it has {amount(len(pages), 'page')}, number {page_index + 1} is missing"
        )
    page = pages.open(page_index) if pages else io.BytesIO(data)
    tags = tiff.read_tags(page)
    orientation, stretch = tags.get(ExifTags.Base.Orientation), tiff.stretch_of(tags)
    picture = _by_pillow(page, tags) if tiff_layout.has_plain_samples(tags) else None
    if picture is None:
        check_size(tags.get(256, 0), tags.get(257, 0))
        picture = turn(to_rgb(tiff_samples.read_samples(data, tags)), orientation)
    if orientation in LYING:
        stretch = 1 / stretch if stretch else 1.0
    picture = _squared(picture, stretch)
    if len(pages) == 1 and (num_slices := tiff.num_slices(data, tags)) > 1:
        return Frame(image=picture, num_frames=num_slices, holds="slices")
    return Frame(image=picture, num_frames=max(len(pages), 1), holds="pages")


def _by_pillow(page: io.BytesIO, tags: tiff.Tags) -> Image.Image | None:
    """Read a page of a TIFF, turned; None if Pillow does not know such samples."""
    try:
        image = Image.open(page, formats=("TIFF",)) if 262 in tags else tiff_layout.UntoldTiff(page)
    except (UnidentifiedImageError, SyntaxError):
        return None
    with image:
        check_size(*image.size)
        if image.mode != "I;16" or tags.get(258) != (12,):
            return to_rgb(image)
        words = np.asarray(image)  # 12 bits of JPEG in words of 16
        return to_rgb(Image.fromarray(words << 4 | words >> 8))


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Bring the transparent colour of a PNG to 8 bits, where Pillow brings its pixels to them."""
    colour = image.info.get("transparency")
    if isinstance(colour, int) and image.mode == "L" and bits in (2, 4):
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _num_frames(image: Image.Image, data: bytes) -> int:
    """Count what a file holds, after its first picture was decoded."""
    if image.format != "GIF":
        return int(getattr(image, "n_frames", 1))
    # A GIF does not say how many, and the first reader may have given us its own pixels.
    try:
        with Image.open(io.BytesIO(data), formats=("GIF",)) as frames:
            return min(getattr(frames, "n_frames", 1), MOST_FRAMES_COUNTED)
    except Exception:  # a later frame is damaged, which the first one need not suffer from
        return 2


def _covered(image: ImageFile.ImageFile, data: bytes) -> tuple[int, int, int, int] | None:
    """Return what the first frame of an animation covers, if it leaves some of the canvas bare.

    Viewers show nothing there, whatever the background colour is; Pillow shows that, or black.
    """
    box = None
    if image.format == "GIF" and image.tile:
        box = image.tile[0].extents
    elif image.format == "WEBP" and data[12:16] == b"VP8X" and data[20] & 2:
        at = 12
        while at + 20 <= len(data) and data[at : at + 4] != b"ANMF":
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            at += 8 + size + size % 2
        if at + 20 > len(data):
            return None
        half_left, half_top, width, height = (
            int.from_bytes(data[start : start + 3], "little") for start in range(at + 8, at + 20, 3)
        )
        left, top = 2 * half_left, 2 * half_top
        box = left, top, left + width + 1, top + height + 1
    return None if box == (0, 0, *image.size) else box


def _stretch_of(image: Image.Image) -> float:
    """Return how many times as dense rows are as columns, where that is to be believed.

    Viewers pay no heed to it in JPEG and PNG, cameras and programs write anything. A picture of
    one bit that gives its densities in real units is a fax.
    """
    if image.mode != "1" or "dpi" not in image.info:
        return 1.0
    across, down = image.info["dpi"]
    return float(across) / float(down) if down else 1.0


def _squared(image: Image.Image, stretch: float) -> Image.Image:
    """Lengthen the edge whose pixels lie less dense, so that all of them are square."""
    size = width, height = image.size
    if STRETCHED <= stretch <= MOST_STRETCHED:
        size = width, round(height * stretch)
    elif STRETCHED <= 1 / stretch <= MOST_STRETCHED if stretch > 0 else False:
        size = round(width / stretch), height
    if size[0] * size[1] > MAX_PIXELS:  # the model sees less than either edge: shorten the other
        ratio = max(stretch, 1 / stretch)
        size = max(round(size[0] / ratio), 1), max(round(size[1] / ratio), 1)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
