"""Printable ASCII, drawn once per face and size.

Faces: the one built into Pillow, and those of the DejaVu family (freely licensed) that lie in the
system's folder or in matplotlib's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = [chr(code) for code in range(32, 127)]
SIZES_PX = (20, 21, 22, 23, 24, 25, 26, 28, 30, 32, 34, 37, 40, 44, 48, 53)
BUILT_IN = "built-in"
_WANTED = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
)
_OVERSAMPLING = 4
_MARGIN_PX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GlyphSet:
    """One face at one size.

    Attributes:
        size_px: The face's size.
        height_px: Of every glyph's picture.
        advances: Width that each character takes in a line, in pixels and parts of them.
        coverage: ``uint8[height_px, w]`` by character, 255 where ink covers the pixel; begins
            ``margin_px`` left of the pen.
        margin_px: See ``coverage``.
    """

    size_px: int
    height_px: int
    advances: dict[str, float]
    coverage: dict[str, NDArray[np.uint8]]
    margin_px: int = _MARGIN_PX


@cache
def faces() -> dict[str, Path | None]:
    """Name the faces that are there; None stands for the built-in one."""
    folders = [Path("/usr/share/fonts/truetype/dejavu")]
    found = find_spec("matplotlib")  # without importing it
    if found is not None and found.origin is not None:
        folders.append(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf")
    here: dict[str, Path | None] = {BUILT_IN: None}
    for name in _WANTED:
        files = (folder / f"{name}.ttf" for folder in folders)
        file = next(filter(Path.is_file, files), None)
        if file is not None:
            here[name] = file
    return here


def font(face: str, size: float) -> ImageFont.FreeTypeFont:
    """Open a face at a size, laid out without ligatures or shaping.

    Raises:
        KeyError: The face is not there.
    """
    path = faces()[face]
    if path is None:
        built_in = ImageFont.load_default(size)
        assert isinstance(built_in, ImageFont.FreeTypeFont)
        return built_in
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def glyphs(face: str, size_px: int, is_reduced: bool) -> GlyphSet:
    """Draw a face's characters.

    Args:
        face: One of `faces`.
        size_px: The face's size.
        is_reduced: Whether they are drawn large and reduced, as those of a scanned or rendered page
            are, instead of fitted to the pixels.
    """
    factor = _OVERSAMPLING if is_reduced else 1
    face_font = font(face, size_px * factor)
    height = round(size_px * 1.35)
    advances, coverage = {}, {}
    for character in CHARACTERS:
        advance = face_font.getlength(character) / factor
        width = round(advance) + 3 * _MARGIN_PX
        image = Image.new("L", (width * factor, height * factor))
        draw = ImageDraw.Draw(image)
        draw.text((_MARGIN_PX * factor, 0), character, fill=255, font=face_font)
        advances[character] = advance
        coverage[character] = np.asarray(image.reduce(factor) if is_reduced else image)
    return GlyphSet(size_px=size_px, height_px=height, advances=advances, coverage=coverage)
