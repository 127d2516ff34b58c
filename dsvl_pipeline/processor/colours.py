"""Pictures of all kinds of colours as RGB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from dsvl_pipeline.processor.orientation import orientation_of, turn
from dsvl_pipeline.processor.refusals import check_size, decoding_error

# Of deep grey, converted at a time: half a megabyte, which stays in a core's cache.
_BAND_PIXELS = 1 << 16


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
    check_size(*image.size)
    try:
        image.load()
        # After load(): some formats hold it behind the pixels, TIFF and AVIF apply it themselves.
        orientation = orientation_of(image)
        image = _flatten(image)
        if covered:
            whole = Image.new("RGB", image.size, "white")
            whole.paste(image.crop(covered), covered)
            image = whole
    except Exception as error:
        raise decoding_error(error) from error
    return turn(image, orientation)


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
    """Yield a picture as numbers, a few rows at a time: as a whole they take 8 bytes a pixel."""
    num_rows = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        band = image.crop((0, top, image.width, bottom))
        grey = np.nan_to_num(np.asarray(band, dtype=np.float64), posinf=0.0, neginf=0.0)
        yield slice(top, bottom), grey
