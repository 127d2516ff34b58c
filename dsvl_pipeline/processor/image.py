"""Bytes to pixels: decode, convert to RGB, letterbox, low-resolution copy. All on uint8.

Global state of Pillow is left alone: other code in a worker may depend on it. The picture's size
is checked here before anything is decompressed, and Pillow's own check for decompression bombs,
whatever its limit is set to, can only refuse more.
"""

from __future__ import annotations

import io
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.model.config import RGB, ImageConfig, TowerImageConfig
from dsvl_pipeline.records import ImageInput, Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_PIXELS = 64_000_000

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"WEBP", b"II*\0", b"MM\0*", b"ftypavi", b"jP  ")
_ACCEPTED = f"accepted are {', '.join(FORMATS)} of at most {MAX_PIXELS // 1_000_000} megapixels"


def decode(data: bytes) -> Image.Image:
    """Read a picture file into an upright RGB picture on white.

    The first frame of an animation; EXIF orientation applied; alpha composited on white; 16-bit
    and floating-point grey scaled to 8 bits, not clipped.

    Raises:
        ImageError: With code ``image_format``, ``image_truncated``, ``image_unreadable`` or
            ``image_too_large``.
    """
    if not data:
        raise ImageError("image_truncated", f"the image has 0 bytes; {_ACCEPTED}; fetch it again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if any(magic in data[:12] for magic in _MAGIC):
            raise _decoding_error(OSError("the header is damaged or cut off"), data) from error
        raise ImageError(
            "image_format",
            f"decoding the image: {len(data)} bytes starting with {data[:12]!r} are in no format "
            f"that is read; {_ACCEPTED}; convert the file or remove the row",
        ) from error
    # Hostile files make the decoders raise OSError, ValueError, SyntaxError, struct.error,
    # OverflowError, NotImplementedError and more: here, whatever its name, it is bad data.
    except Exception as error:
        raise _decoding_error(error, data) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any picture that Pillow holds into an upright RGB one on white.

    Returns:
        A new picture, or the given one if it needs no change.

    Raises:
        ImageError: The picture is too large, damaged, or of a mode that cannot be converted.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image_too_large",
            f"decoding the image: it has {width} x {height} pixels; {_ACCEPTED}; scale it down",
        )
    try:
        image.load()
        # After load(): some formats hold it behind the pixels, TIFF and AVIF apply it themselves.
        orientation = _orientation(image)
        image = _flatten(image)
    except Exception as error:
        raise _decoding_error(error) from error
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def letterbox(
    image: Image.Image,
    *,
    side: int,
    fill: RGB,
    resample: int = Image.Resampling.BICUBIC,
    min_edge: int = 14,
) -> Image.Image:
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
        RGB picture of ``side`` x ``side``; a picture still, since the low-resolution copy is
        resized from it.

    Source: ``DeepseekVLHybridImageProcessor`` (PIL), transformers 5.23; the original truncates.
    """
    scale = side / max(image.size)
    width, height = (max(round(edge * scale), min_edge) for edge in image.size)
    resized = image.resize((width, height), resample)
    if width == height:
        return resized
    square = Image.new("RGB", (side, side), fill)
    square.paste(resized, ((side - width) // 2, (side - height) // 2))
    return square


def image_input(image: Image.Image, config: ImageConfig) -> ImageInput:
    """Make what the towers see of an RGB picture.

    With two towers the low-resolution pixels come from the padded high-resolution ones, so that
    their background is the high-resolution one's, and the digest of the latter covers both.
    """
    low, high = config.low_res, config.high_res
    high_res = None
    if high is not None:
        # Upstream takes 0 (nearest) for "not given" here, and falls back to the other tower's.
        image = _fit(image, high, high.resample or low.resample, config.min_size_px)
        high_res = _pixels(image)
    low_res = _pixels(_fit(image, low, low.resample, config.min_size_px))
    hashed = low_res if high_res is None else high_res
    digest = blake2b(hashed, digest_size=16, key=repr((hashed.shape, low_res.shape)).encode())
    return ImageInput(digest=digest.digest(), high_res=high_res, low_res=low_res)


def _fit(image: Image.Image, tower: TowerImageConfig, resample: int, min_edge: int) -> Image.Image:
    return letterbox(
        image, side=tower.side_px, fill=tower.background, resample=resample, min_edge=min_edge
    )


def _pixels(image: Image.Image) -> Pixels:
    return np.array(image)  # a writable copy: torch.from_numpy wants one


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """Bring a loaded picture to RGB, transparency composited on white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _flatten_deep_grey(image)
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _flatten_deep_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 8 bits.

    65535 becomes 255. 32-bit integers and floats carry no white point: integers that fit into 16
    bits are taken as such, floats within 0 to 1 as shares of white, anything else is stretched
    from its least to its greatest value.
    """
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    black, white = 0.0, 1.0 if image.mode == "F" else 65535.0
    least, greatest = float(grey.min()), float(grey.max())
    if least < black or greatest > white:
        black, white = least, greatest if greatest > least else least + 1
    scaled: NDArray[np.uint8] = np.rint((grey - black) * (255 / (white - black))).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")


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
