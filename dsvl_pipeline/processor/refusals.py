"""Pictures that are not accepted, and the words for it."""

from __future__ import annotations

from PIL import Image

from dsvl_pipeline.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

MAX_PIXELS = 64_000_000

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"WEBP", b"II*\0", b"MM\0*", b"ftypavi", b"jP  ")

ACCEPTED = f"accepted are {', '.join(FORMATS)} of at most {MAX_PIXELS // 1_000_000} megapixels"


def check_size(width: int, height: int) -> None:
    """Refuse a picture of too many pixels.

    Raises:
        ImageError: With code ``image_too_large``.
    """
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image_too_large",
            f"decoding the image: it has {width} x {height} pixels; {ACCEPTED}; scale it down",
        )


def decoding_error(error: Exception, data: bytes = b"") -> ImageError:
    """Make the error for a picture, from what a decoder said."""
    found = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageError(
            "image_too_large",
            f"decoding the image: not enough memory; {ACCEPTED}; try again or scale it down",
            is_retryable=True,
        )
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(
            "image_too_large", f"decoding the image: {found}; {ACCEPTED}; scale it down"
        )
    is_truncated = any(word in found.lower() for word in ("truncated", "only got", "eof"))
    if data[:4] == b"RIFF":  # WebP's decoder gives no reason, but the header holds the length
        is_truncated = len(data) < int.from_bytes(data[4:8], "little") + 8
    return ImageError(
        "image_truncated" if is_truncated else "image_unreadable",
        f"decoding the image: {found}; a whole file is needed and "
        f"{ACCEPTED}; fetch it again or remove the row",
    )
