"""Pictures that are stored lying, and how they are turned."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

LYING = (5, 6, 7, 8)  # orientations that exchange rows and columns


def turn(image: Image.Image, orientation: Any) -> Image.Image:
    """Turn a picture upright."""
    if orientation not in _UPRIGHT:
        return image
    upright = image.transpose(_UPRIGHT[orientation])
    upright.info.clear()  # Pillow keeps the orientation there, and the next reader would obey it
    return upright


def orientation_of(image: Image.Image) -> int:
    """Return the orientation that a picture names, 1 to 8; 1 where it names none that there is."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
