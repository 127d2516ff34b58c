"""Whether a page holds anything to read. Models asked about blank pages invent prose.

A scan of an empty sheet is not white, nor of one value: paper is cream, light falls off, JPEG
leaves ripples, there is dust, the edges are dark, the other side shows through. All of that is
faint, smooth, or smaller than a letter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Thresholds are for a page of this height, A4 at 144 dpi, and were measured with
# `python -m benchmarks.blank`.
_REFERENCE_PX = 1684
INK = 40
"""Levels by which ink differs from the paper around it, lighter or darker."""
LEAST_INK_PX = 36
"""Pixels of ink in the smallest thing that is read; a lone small digit may have fewer."""
_WINDOW_PX = 32
_MARGIN = 0.02  # scanners leave dark edges; 4 mm, in which nothing is printed
_SURELY_INK = 0.02
_MOST_SHADING = 80  # levels from the lightest paper to the darkest


def is_blank(image: Image.Image) -> bool:
    """Tell whether an RGB page is empty: uniform in whatever colour, but for dust and shading."""
    # Green is most of what the eye sees; the others tell yellow or pale print from white.
    return not any(_has_ink(image.getchannel(channel)) for channel in "GBR")


def _has_ink(page: Image.Image) -> bool:
    left, top = (round(edge * _MARGIN) for edge in page.size)
    page = page.crop((left, top, page.width - left, page.height - top))
    low, high = page.getextrema()
    if high - low < INK:  # type: ignore[operator]  # of one channel
        return False
    counts = np.array(page.histogram())
    paper = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    is_far = np.abs(np.arange(256) - paper) >= INK
    if counts[is_far].sum() > _SURELY_INK * counts.sum() and not _is_shaded(counts, paper):
        return True
    factor = max(max(page.size) // _REFERENCE_PX, 1)
    page = page.reduce(factor)
    around = _paper(page)
    shades = np.asarray(around.resize((16, 16), Image.Resampling.BOX))
    if int(shades.max()) - int(shades.min()) > _MOST_SHADING:
        return True
    scale = (max(page.size) / (1 - 2 * _MARGIN) / _REFERENCE_PX) ** 2
    least = max(LEAST_INK_PX * min(scale, 1.0), 6)
    most = _most_in_a_window(page, around)
    if not least <= most < 4 * least:
        return most >= least
    # Only now, as it takes longer than all the rest: grains of one or two pixels are no ink.
    return _most_in_a_window(page.filter(ImageFilter.MedianFilter(3)), around) >= least / 2


def _is_shaded(counts: NDArray[np.int64], paper: int) -> bool:
    """Tell whether all that differs from the paper may be shading: it lies not far from it."""
    return bool(counts[: max(paper - _MOST_SHADING, 0)].sum() < _SURELY_INK * counts.sum())


def _paper(page: Image.Image) -> Image.Image:
    """Give the paper without what is on it, as a picture of the page's size."""
    small = page.reduce(16) if min(page.size) >= 16 else page
    return small.filter(ImageFilter.MedianFilter(5)).resize(page.size, Image.Resampling.BILINEAR)


def _most_in_a_window(page: Image.Image, around: Image.Image) -> int:
    """Count the pixels of ink in the window that has most of them."""
    difference = np.asarray(page).astype(np.int16) - np.asarray(around)
    ink = np.abs(difference) >= INK
    half = _WINDOW_PX // 2
    height, width = (-(-edge // half) * half for edge in ink.shape)
    padded = np.zeros((height, width), np.uint8)
    padded[: ink.shape[0], : ink.shape[1]] = ink
    cells = padded.reshape(height // half, half, width // half, half).sum((1, 3), dtype=np.int32)
    cells = np.pad(cells, ((0, 1), (0, 1)))
    return int((cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]).max())
