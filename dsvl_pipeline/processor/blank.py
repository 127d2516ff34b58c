"""Whether a page holds anything to read. Models asked about blank pages invent prose.

A page that is taken for blank is lost without the model being asked, so what is in doubt is not
blank. A scan of an empty sheet is not white, nor of one value: paper is cream, light falls off,
JPEG leaves ripples, there is dust, the edges are dark, the other side shows through. All of that
is smooth, or within the page's own noise, or smaller than a letter. Print is neither: even where
it is faint it has sharp edges, and its strokes are some pixels long. Where it is separate dots or
dashes, these lie closer together than those of dust.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Thresholds were measured with `python -m benchmarks.blank`.
INK = 40
"""Levels by which ink differs from the paper around it, lighter or darker, however blurred."""
FAINT = 12
"""Levels by which it has to differ where its edges are as sharp, and nothing else is there."""
_OVER_NOISE = 1.5  # ... and how many times the noise of the page on top of them
_STROKE_PX = 7  # longer than dust
_REFERENCE_PX = 1190  # the shorter edge of A4 at 144 dpi; what has more pixels has larger letters
_CELL_PX = 32
_MARGIN = 0.02  # scanners leave dark edges
_SURELY_INK = 0.02
_MOST_SHADING = 80  # levels from the lightest paper to the darkest
_DOTTED = (((32, 32), 7), ((4, 96), 5), ((96, 4), 5))
"""Heights and widths of windows, and the dots in one that are print: dot matrix; dotted lines."""
_BAND_PX = 8


def is_blank(image: Image.Image) -> bool:
    """Return whether an RGB page is empty: uniform in whatever colour, but for dust and shading."""
    # Green is most of what the eye sees; the others tell yellow or pale print from white.
    green = image.getchannel("G")
    if _has_ink(green):
        return False
    others = [image.getchannel(channel) for channel in "BR"]
    return not any(other != green and _has_ink(other) for other in others)


def _has_ink(page: Image.Image) -> bool:
    factor = max(min(page.size) // _REFERENCE_PX, 1)
    reduced = page.reduce(factor) if factor > 1 else page
    left, top = (round(edge * _MARGIN) for edge in reduced.size)
    inner = reduced.crop((left, top, reduced.width - left, reduced.height - top))
    low, high = reduced.getextrema()
    if high - low < FAINT:  # type: ignore[operator]  # of one channel
        return False
    counts = np.array(inner.histogram())
    paper = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    is_far = np.abs(np.arange(256) - paper) >= INK
    if counts[is_far].sum() > _SURELY_INK * counts.sum() and not _is_shaded(counts, paper):
        return True
    around = _paper(inner)
    shades = np.asarray(around.resize((16, 16), Image.Resampling.BOX))
    if int(shades.max()) - int(shades.min()) > _MOST_SHADING:
        return True
    margins = ((top, top), (left, left))
    depth = _distance(np.asarray(reduced), np.pad(np.asarray(around), margins, "edge"))
    # A thumbnail's letters are smaller, and its dust is as well.
    length = min(4 + min(page.size) // 333, _STROKE_PX)
    if _has_stroke(depth >= INK, length):
        return True
    steps = _steps(np.asarray(page))
    # The quietest cells tell what the paper does by itself: none is quiet on a grainy scan, and
    # even a page full of text has its margins.
    noise = float(np.percentile(_most(steps, _CELL_PX), 10))
    faint = min(FAINT + _OVER_NOISE * noise, INK)
    is_sharp = _most(steps, factor) >= faint
    if _has_stroke((depth >= INK) | ((depth >= faint) & is_sharp), length):
        return True
    return _is_dotted(depth >= INK)


def _is_shaded(counts: NDArray[np.int64], paper: int) -> bool:
    """Return whether all that differs from the paper may be shading: it lies not far from it."""
    return bool(counts[: max(paper - _MOST_SHADING, 0)].sum() < _SURELY_INK * counts.sum())


def _paper(page: Image.Image) -> Image.Image:
    """Return the paper without what is on it, as a picture of the page's size."""
    small = page.reduce(16) if min(page.size) >= 16 else page
    return small.filter(ImageFilter.MedianFilter(5)).resize(page.size, Image.Resampling.BILINEAR)


def _distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.maximum(one, other) - np.minimum(one, other)


def _steps(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return how far each pixel differs from the one of its four neighbours least like it.

    What shows through, or is out of focus, needs several pixels for the way from paper to ink.
    """
    steps = np.zeros_like(page)
    for turned, found in ((page, steps), (page.T, steps.T)):
        between = _distance(turned[1:], turned[:-1])
        np.maximum(found[1:], between, out=found[1:])
        np.maximum(found[:-1], between, out=found[:-1])
    return steps


def _most(values: NDArray[np.uint8], edge_px: int) -> NDArray[np.uint8]:
    """Return the largest value of each cell."""
    if edge_px == 1:
        return values
    for _ in range(2):  # columns as rows of a copy: many times faster than as columns
        padded = np.pad(np.ascontiguousarray(values), ((0, -len(values) % edge_px), (0, 0)))
        values = padded.reshape(-1, edge_px, padded.shape[1]).max(1).T
    return values


def _without_edges(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cut off what reaches to an edge of the page, as far as the margin: no print does."""
    for _ in range(4):
        most = round(_MARGIN * len(ink))
        is_free = ~ink[:most].any(1)
        cut = int(is_free.argmax()) if is_free.any() else most
        ink = np.rot90(ink[cut:])
    return ink


def _has_stroke(ink: NDArray[np.bool_], length: int) -> bool:
    """Return whether a path of ink goes down, or across, so many pixels without a gap.

    Those of dust and of grain end sooner.
    """
    ink = _without_edges(ink)
    return any(_descends(turned, length) for turned in (ink, ink.T))


def _descends(ink: NDArray[np.bool_], length: int) -> bool:
    path = ink
    for row in range(1, length):
        above = path[:-1]
        near = above.copy()
        near[:, 1:] |= above[:, :-1]
        near[:, :-1] |= above[:, 1:]
        path = near & ink[row:]
        if not path.any():
            return False
    return True


def _is_dotted(ink: NDArray[np.bool_]) -> bool:
    """Return whether specks of ink lie closer together somewhere than chance puts them."""
    ink = np.pad(_without_edges(ink), 1)
    above = ink[:-2, :-2] | ink[:-2, 1:-1] | ink[:-2, 2:]
    starts = ink[1:-1, 1:-1] & ~above & ~ink[1:-1, :-2]  # of each speck its upper left corner
    # Grain, and salt and pepper, are everywhere; print leaves most of the rows or columns free.
    share = min(_usual_share(starts), _usual_share(starts.T))
    rows, columns = np.nonzero(starts)
    for (height, width), least in _DOTTED:
        if len(rows) < least:
            continue
        down, across = height // 2, width // 2  # windows overlap by half
        num_down, num_across = (
            (starts.shape[0] - 1) // down + 2,
            (starts.shape[1] - 1) // across + 2,
        )
        cells = rows // down * num_across + columns // across
        counts = np.bincount(cells, minlength=num_down * num_across).reshape(num_down, num_across)
        windows = counts[1:] + counts[:-1]
        windows = windows[:, 1:] + windows[:, :-1]
        usual = share * height * width
        if windows.max() >= least + usual + 5 * usual**0.5:
            return True
    return False


def _usual_share(starts: NDArray[np.bool_]) -> float:
    """Return the share of such pixels in the middle one of all bands of rows."""
    num_rows = len(starts) // _BAND_PX * _BAND_PX
    if not starts[:num_rows].size:
        return 0.0
    bands = np.count_nonzero(starts[:num_rows], axis=1).reshape(-1, _BAND_PX).sum(1)
    return float(np.median(bands) / (_BAND_PX * starts.shape[1]))
