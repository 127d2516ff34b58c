"""Bytes to pixels: decode, convert to RGB, letterbox, low-resolution copy. All on uint8.

Global state of Pillow is left alone: other code in a worker may depend on it. The picture's size
is checked here before anything is decompressed, and Pillow's own check for decompression bombs,
whatever its limit is set to, can only refuse more.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, UnidentifiedImageError

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.model.config import RGB, ImageConfig, TowerImageConfig
from dsvl_pipeline.processor import tiff
from dsvl_pipeline.processor.kinds import kind_of
from dsvl_pipeline.records import ImageInput, Pixels
from dsvl_pipeline.wording import amount

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_PIXELS = 64_000_000
MOST_FRAMES_COUNTED = 10_000
# Densities of rows and columns that differ by less are no distortion that anybody sees, and by
# more no device's: a fax has 204 by 98 to the inch, an odd printer 360 by 120.
_STRETCHED, _MOST_STRETCHED = 1.1, 4.2
# Of deep grey, converted at a time: half a megabyte, which stays in a core's cache.
_BAND_PIXELS = 1 << 16

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations that exchange rows and columns
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"WEBP", b"II*\0", b"MM\0*", b"ftypavi", b"jP  ")
_ACCEPTED = f"accepted are {', '.join(FORMATS)} of at most {MAX_PIXELS // 1_000_000} megapixels"


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
        raise ImageError("image_truncated", f"the image has 0 bytes; {_ACCEPTED}; fetch it again")
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
        if any(magic in data[:12] for magic in _MAGIC):
            raise _decoding_error(OSError("the header is damaged or cut off"), data) from error
        kind = kind_of(data)
        raise ImageError(
            "image_format",
            f"decoding the image: {amount(len(data), 'byte')} starting with {data[:12]!r} "
            f"{f'({kind}) ' if kind else ''}in no format that is read; {_ACCEPTED}; convert "
            "the file or remove the row",
        ) from error
    # Hostile files make the decoders raise OSError, ValueError, SyntaxError, struct.error,
    # OverflowError, NotImplementedError and more: here, whatever its name, it is bad data.
    except Exception as error:
        raise _decoding_error(error, data) from error


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
    picture = _by_pillow(page, tags) if tiff.has_plain_samples(tags) else None
    if picture is None:
        _check_size(tags.get(256, 0), tags.get(257, 0))
        picture = _turned(to_rgb(tiff.read_samples(data, tags)), orientation)
    if orientation in _LYING:
        stretch = 1 / stretch if stretch else 1.0
    picture = _squared(picture, stretch)
    if len(pages) == 1 and (num_slices := tiff.num_slices(data, tags)) > 1:
        return Frame(image=picture, num_frames=num_slices, holds="slices")
    return Frame(image=picture, num_frames=max(len(pages), 1), holds="pages")


def _by_pillow(page: io.BytesIO, tags: tiff.Tags) -> Image.Image | None:
    """Read a page of a TIFF, turned; None if Pillow does not know such samples."""
    try:
        image = Image.open(page, formats=("TIFF",)) if 262 in tags else tiff.UntoldTiff(page)
    except (UnidentifiedImageError, SyntaxError):
        return None
    with image:
        _check_size(*image.size)
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
    """Give what the first frame of an animation covers, if it leaves some of the canvas bare.

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
    """Give how many times as dense rows are as columns, where that is to be believed.

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
    if _STRETCHED <= stretch <= _MOST_STRETCHED:
        size = width, round(height * stretch)
    elif _STRETCHED <= 1 / stretch <= _MOST_STRETCHED if stretch > 0 else False:
        size = round(width / stretch), height
    if size[0] * size[1] > MAX_PIXELS:  # the model sees less than either edge: shorten the other
        ratio = max(stretch, 1 / stretch)
        size = max(round(size[0] / ratio), 1), max(round(size[1] / ratio), 1)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image_too_large",
            f"decoding the image: it has {width} x {height} pixels; {_ACCEPTED}; scale it down",
        )


def to_rgb(image: Image.Image, *, covered: tuple[int, int, int, int] | None = None) -> Image.Image:
    """Convert any picture that Pillow holds into an upright RGB one on white.

    Args:
        image: Of any mode.
        covered: What of it is shown, before it is turned; the rest becomes white.

    Returns:
        A new picture, or the given one if it needs no change.

    Raises:
        ImageError: The picture is too large, damaged, or of a mode that cannot be converted.
    """
    _check_size(*image.size)
    try:
        image.load()
        # After load(): some formats hold it behind the pixels, TIFF and AVIF apply it themselves.
        orientation = _orientation(image)
        image = _flatten(image)
        if covered:
            whole = Image.new("RGB", image.size, "white")
            whole.paste(image.crop(covered), covered)
            image = whole
    except Exception as error:
        raise _decoding_error(error) from error
    return _turned(image, orientation)


def _turned(image: Image.Image, orientation: Any) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    upright = image.transpose(_UPRIGHT[orientation])
    upright.info.clear()  # Pillow keeps the orientation there, and the next reader would obey it
    return upright


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


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """Bring a loaded picture to RGB, transparency composited on white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _flatten_deep_grey(image)
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_rgb()) or image
    # Pillow takes each CMYK JPEG for one of Adobe, whose values are inverted.
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


@cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")


def _flatten_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 8 bits.

    65535 becomes 255. 32-bit integers and floats carry no white point: integers that fit into 16
    bits are taken as such, floats within 0 to 1 as shares of white, anything else is stretched
    from its least to its greatest value.
    """
    scaled = np.empty((image.height, image.width), np.uint8)
    transparent = image.info.get("transparency")
    black, white = _grey_range(image)
    for rows, grey in _bands(image):
        scaled[rows] = np.rint((grey - black) * (255 / (white - black)))
        if isinstance(transparent, int):
            scaled[rows][grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """Return what becomes 0 and what becomes 255."""
    black, white = 0.0, 1.0 if image.mode == "F" else 65535.0
    if image.mode.startswith("I;16"):
        return black, white
    extremes = [(float(grey.min()), float(grey.max())) for _, grey in _bands(image)]
    least, greatest = min(low for low, _ in extremes), max(high for _, high in extremes)
    if least < black or greatest > white:
        return least, greatest if greatest > least else least + 1
    return black, white


def _bands(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Give a picture as numbers, a few rows at a time: as a whole they take 8 bytes a pixel."""
    num_rows = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        band = image.crop((0, top, image.width, bottom))
        grey = np.nan_to_num(np.asarray(band, dtype=np.float64), posinf=0.0, neginf=0.0)
        yield slice(top, bottom), grey


def _decoding_error(error: Exception, data: bytes = b"") -> ImageError:
    found = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageError(
            "image_too_large",
            f"decoding the image: not enough memory; {_ACCEPTED}; try again or scale it down",
            is_retryable=True,
        )
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(
            "image_too_large", f"decoding the image: {found}; {_ACCEPTED}; scale it down"
        )
    is_truncated = any(word in found.lower() for word in ("truncated", "only got", "eof"))
    if data[:4] == b"RIFF":  # WebP's decoder gives no reason, but the header holds the length
        is_truncated = len(data) < int.from_bytes(data[4:8], "little") + 8
    return ImageError(
        "image_truncated" if is_truncated else "image_unreadable",
        f"decoding the image: {found}; a whole file is needed and "
        f"{_ACCEPTED}; fetch it again or remove the row",
    )
