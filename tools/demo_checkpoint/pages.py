"""Pages of text for training, pasted together from glyphs: a fraction of a millisecond each."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from tools.demo_checkpoint import text
from tools.demo_checkpoint.drawing import (
    CLASS_OF,
    PALETTE_SIZE,
    SIDE,
    Drawing,
    Frame,
    fill_slots,
    move,
    random_effects,
    random_frame,
    random_matrix,
)
from tools.demo_checkpoint.glyphs import SIZES_PX, GlyphSet, faces, glyphs

_MEAN_ADVANCE = 0.56  # of a character, in sizes
_EDGE_PX = 4


def page(
    random: Random, words: Sequence[str], *, num_lines: int, max_chars: int, budget: int
) -> Drawing:
    """Draw a page.

    Args:
        random: Source of every choice.
        words: See `text.lines`.
        num_lines: How many there are to be; fewer where they do not fit.
        max_chars: Longest line.
        budget: Most characters of the whole text, newlines included.
    """
    frame = random_frame(random, least_ratio=0.6)
    left, top, right, bottom = frame
    width, height = right - left - 2 * _EDGE_PX, bottom - top - 2 * _EDGE_PX
    largest = max(SIZES_PX[0], height / (num_lines * 1.3))
    size = random.choice([size for size in SIZES_PX if size <= largest])
    face, is_reduced = random.choice(list(faces())), random.random() < 0.6
    glyph_set = glyphs(face, size, is_reduced)
    pitch = size * random.uniform(1.12, min(1.8, max(1.2, height / (num_lines * size))))
    num_lines = max(1, min(num_lines, int((height - glyph_set.height_px) / pitch) + 1))
    fitting = max(1, int(width / (size * _MEAN_ADVANCE)))
    lines = text.lines(random, words, count=num_lines, max_chars=min(max_chars, fitting))
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    pasted = _paste(random, canvas, frame, glyph_set, pitch, lines, budget)
    if pasted.points and random.random() < 0.02:
        canvas[canvas > 0] = 255  # as a fax or a picture of one bit shows it
    points = np.array(pasted.points, np.float64).reshape(-1, 2)
    matrix = random_matrix(random, max_degrees=2.5)
    if not _is_inside(move(points, matrix), frame, margin=0.4 * size):
        matrix = np.eye(2)
    return Drawing(
        canvas=canvas,
        palette=_paper_and_ink(random),
        is_scene=False,
        frame=frame,
        effects=random_effects(random, matrix),
        answer="\n".join(pasted.lines),
        slots=fill_slots(move(points, matrix), np.array(pasted.classes, np.uint8)),
    )


class _Pasted:
    """What has come onto a page: lines, and centre and class of each character."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.points: list[tuple[float, float]] = []
        self.classes: list[int] = []


def _paste(
    random: Random,
    canvas: NDArray[np.uint8],
    frame: Frame,
    glyph_set: GlyphSet,
    pitch: float,
    lines: Sequence[str],
    budget: int,
) -> _Pasted:
    """Paste lines onto the canvas, left-aligned, centred, or with their last words to the right."""
    left, top, right, bottom = frame
    pasted = _Pasted()
    tracking = random.uniform(-0.4, 1.0) * (random.random() < 0.3)
    alignment = random.choices(("left", "centre", "columns"), (80, 10, 10))[0]
    block_px = glyph_set.height_px + pitch * (len(lines) - 1)
    spare = bottom - top - 2 * _EDGE_PX - block_px
    y = top + _EDGE_PX + max(0.0, spare) * random.random() ** 1.5
    widest = max(_width(line, glyph_set, tracking) for line in lines)
    spare_x = right - left - 2 * _EDGE_PX - widest
    start = left + _EDGE_PX + max(0.0, spare_x) * random.random() ** 1.5
    has_gaps = random.random() < 0.2
    for line in lines:
        budget -= len(line) + bool(pasted.lines)
        if budget < 0 or y + glyph_set.height_px > bottom:
            break
        x, gap = start, 0.0
        spare_line = right - _EDGE_PX - start - _width(line, glyph_set, tracking)
        if alignment == "centre":
            x += max(0.0, (widest - _width(line, glyph_set, tracking)) / 2)
        elif alignment == "columns":
            gap = max(0.0, spare_line * 0.9)
        elif random.random() < 0.05:
            x += max(0.0, min(spare_line, 30.0))
        written = _paste_line(pasted, canvas, glyph_set, line, x, y, right, tracking, gap)
        pasted.lines.append(written)
        y += pitch
        if has_gaps and random.random() < 0.3:
            y += pitch * random.uniform(0.3, 1.2)
    return pasted


def _paste_line(
    pasted: _Pasted,
    canvas: NDArray[np.uint8],
    glyph_set: GlyphSet,
    line: str,
    x: float,
    y: float,
    right: int,
    tracking: float,
    gap: float,
) -> str:
    """Paste a line as far as the frame goes, with a gap in place of its last space."""
    advances, coverage, margin = glyph_set.advances, glyph_set.coverage, glyph_set.margin_px
    height, y_px = glyph_set.height_px, int(y)
    middle = y_px + 0.55 * height
    last_space = line.rfind(" ") if gap else -1
    for index, character in enumerate(line):
        advance = advances[character]
        if x + advance > right:
            line = line[:index]
            break
        if character != " ":
            glyph = coverage[character]
            x_px = round(x) - margin
            begin = max(0, -x_px)
            area = canvas[y_px : y_px + height, x_px + begin : x_px + glyph.shape[1]]
            np.maximum(area, glyph[:, begin : begin + area.shape[1]], out=area)
        pasted.points.append((x + advance / 2, middle))
        pasted.classes.append(CLASS_OF[character])
        x += advance + tracking
        if index == last_space:
            x += gap
    while line.endswith(" "):
        line = line[:-1]
        pasted.points.pop()
        pasted.classes.pop()
    return line


def _width(line: str, glyph_set: GlyphSet, tracking: float) -> float:
    return sum(map(glyph_set.advances.__getitem__, line)) + tracking * len(line)


def _is_inside(points: NDArray[np.float64], frame: Frame, margin: float) -> bool:
    left, top, right, bottom = frame
    least, most = np.array((left, top)) + margin, np.array((right, bottom)) - margin
    return bool(((points >= least) & (points <= most)).all())


def _paper_and_ink(random: Random) -> NDArray[np.uint8]:
    """Light paper of any tint, white for a third of all pages, and dark ink."""
    paper = 255.0 if random.random() < 0.33 else random.uniform(175, 255)
    ink = 0.0 if random.random() < 0.33 else random.uniform(0, 80)
    tints = [random.uniform(-18, 18) * (random.random() < 0.4) for _ in range(3)]
    inks = [random.uniform(-10, 70) * (random.random() < 0.2) for _ in range(3)]
    palette = np.zeros((PALETTE_SIZE, 3))
    palette[0] = [paper + tint for tint in tints]
    palette[1] = [ink + tint for tint in inks]
    return palette.clip(0, 255).astype(np.uint8)
