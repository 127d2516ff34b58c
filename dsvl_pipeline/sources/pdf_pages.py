"""The pages of an opened PDF as pictures."""

from __future__ import annotations

import ctypes
import math

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from dsvl_pipeline.sources.pdf_document import Defect, Document, Refused


def render_page(
    document: Document, page_index: int, dpi: float, max_px: int
) -> tuple[int, int, list[Defect], bytes]:
    """Render a page, rotated as it says itself: width, height, defects, RGB bytes.

    The scale is clamped before anything is allocated: a page may claim to be a kilometre long.

    Raises:
        Refused: ``page_unreadable``.
    """
    page = document.page(page_index)
    try:
        width, height = page.get_size()
        longest = max(width, height)
        if not (math.isfinite(longest) and min(width, height) > 0):
            raise Refused("page_unreadable", f"says it is {width} x {height} points large")
        unit = document.user_units.get(page_index, 1.0)  # pdfium does not know of it
        bitmap = page.render(
            scale=min(unit * dpi / 72, max_px / longest),
            force_bitmap_format=pdfium_c.FPDFBitmap_BGR,
            rev_byteorder=True,
        )
    except (pdfium.PdfiumError, IndexError, ValueError) as error:
        raise Refused("page_unreadable", f"cannot be rendered ({error})") from None
    rows = memoryview((ctypes.c_ubyte * (bitmap.stride * bitmap.height)).from_buffer(bitmap.buffer))
    used = 3 * bitmap.width
    starts = range(0, bitmap.stride * bitmap.height, bitmap.stride)
    pixels = b"".join(rows[start : start + used] for start in starts)
    defects = [*document.defects, *_shape_defects(width * unit, height * unit)]
    result = bitmap.width, bitmap.height, defects, pixels
    page.close()
    return result


# The model sees a page whole, 1024 px long. On a page over this ratio it sees less than 52 px of
# the shorter side (receipts reach 12, web pages in one piece 20 and more); beyond the length, which
# no paper size has (4A0 is 6740 points, but 1.4 times as long as wide), text of 10 points is less
# than 3 px high, and below the width there is no text.
_MAX_RATIO = 20

_LONG_RATIO = 5

_LONG_POINTS = 4096

_LEAST_POINTS = 4


def _shape_defects(width: float, height: float) -> list[Defect]:
    """Return what is wrong with a page of such a size, in points: too long or too small to read."""
    shorter, longer = sorted((width, height))
    ratio = longer / shorter
    is_strip = ratio > _MAX_RATIO or (ratio > _LONG_RATIO and longer > _LONG_POINTS)
    if not is_strip and shorter >= _LEAST_POINTS:
        return []
    why = "so extreme a shape" if is_strip else "so small a size"
    return [
        (
            "page_shape",
            f"the page is {width:,.4g} x {height:,.4g} points large: at {why} hardly anything on "
            "it can be read when it is shown whole; cut it into pages of usual proportions",
        )
    ]
