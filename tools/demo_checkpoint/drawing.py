"""A picture before its colours: what the CPU draws, what the GPU makes of it, and what is in it.

Pixels are numbered from the top left, x to the right; a picture is 512 px wide and high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from tools.demo_checkpoint.glyphs import CHARACTERS
from tools.demo_checkpoint.shape import HIGH_RES_PX

SIDE = HIGH_RES_PX
RGB = tuple[int, int, int]
Frame = tuple[int, int, int, int]
"""Left, top, right, bottom of the picture between its bars."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS: dict[str, RGB] = {
    "red": (214, 38, 44),
    "orange": (240, 140, 28),
    "yellow": (236, 214, 48),
    "green": (48, 152, 74),
    "blue": (48, 94, 214),
    "purple": (132, 58, 168),
    "black": (28, 28, 30),
}
PALETTE_SIZE = 4  # a background and at most three groups

GRID, SLOTS = 16, 6
# What a slot of a cell may hold: nothing, a character, a shape or a colour.
CLASS_OF = {
    name: index for index, name in enumerate([*CHARACTERS, *SHAPES, *COLOURS], start=1)
}  # "" is 0
NUM_CLASSES = 112  # 109 rounded up to a multiple of 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """How the picture is spoilt.

    Attributes:
        matrix: ``float64[2, 2]``, turns and stretches it about its centre.
        blur: From 0 to 1.
        noise: Standard deviation, where white is 1.
        shading: How much brighter it gets towards the right and the lower edge, from the centre.
    """

    matrix: NDArray[np.float64] = field(default_factory=lambda: np.eye(2))
    blur: float = 0.0
    noise: float = 0.0
    shading: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture and its answer.

    Attributes:
        canvas: ``uint8[512, 512]``; of a page how much ink covers each pixel, of a scene whose
            colour it has.
        palette: ``uint8[PALETTE_SIZE, 3]``; of a page its paper and ink, of a scene the background
            and the groups.
        is_scene: See above.
        frame: Outside of it are the bars.
        effects: What is to be done to it.
        answer: The text of a page, the caption of a scene.
        slots: ``uint8[256, SLOTS]``, what lies in each cell of the grid of image tokens.
    """

    canvas: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    is_scene: bool
    frame: Frame
    effects: Effects
    answer: str
    slots: NDArray[np.uint8]


def random_frame(random: Random, *, least_ratio: float) -> Frame:
    """Choose a page's shape: square, portrait or landscape, as letterboxing leaves it."""
    kind = random.random()
    if kind < 0.4:
        return (0, 0, SIDE, SIDE)
    edge = round(SIDE * random.uniform(least_ratio, 1.0))
    before = (SIDE - edge) // 2
    if kind < 0.75:
        return (before, 0, before + edge, SIDE)
    return (0, before, SIDE, before + edge)


def random_matrix(random: Random, *, max_degrees: float) -> NDArray[np.float64]:
    """Choose a small turn, stretch and slant; for a third of all pictures none."""
    if random.random() < 0.34:
        return np.eye(2)
    angle = math.radians(random.uniform(-max_degrees, max_degrees)) * (random.random() < 0.7)
    scale, stretch = random.uniform(0.94, 1.06), random.uniform(0.97, 1.03)
    slant = random.uniform(-0.08, 0.08) * (random.random() < 0.2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretched = np.array([[scale * stretch, slant], [0.0, scale / stretch]])
    matrix: NDArray[np.float64] = turn @ stretched
    return matrix


def random_effects(random: Random, matrix: NDArray[np.float64]) -> Effects:
    """Choose blur, noise and shading; half of all pictures have little or none of each."""
    return Effects(
        matrix=matrix,
        blur=random.random() * (random.random() < 0.5),
        noise=random.random() ** 2 * 0.07 * (random.random() < 0.6),
        shading=(
            random.uniform(-0.12, 0.12) * (random.random() < 0.5),
            random.uniform(-0.12, 0.12) * (random.random() < 0.5),
        ),
    )


def move(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where ``float64[n, 2]`` points (x, y) of the canvas come to lie in the picture."""
    centre = SIDE / 2
    moved: NDArray[np.float64] = (points - centre) @ matrix.T + centre
    return moved


def fill_slots(points: NDArray[np.float64], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sort classes into the cells that their points lie in, in the order given.

    Args:
        points: ``float64[n, 2]``, inside the picture.
        classes: ``uint8[n]``.

    Returns:
        ``uint8[256, SLOTS]``; what a cell has no more room for is left out.
    """
    slots = np.zeros((GRID * GRID, SLOTS), np.uint8)
    if len(points):
        column, row = (points * (GRID / SIDE)).astype(np.int64).clip(0, GRID - 1).T
        cells = row * GRID + column
        order = np.argsort(cells, kind="stable")
        cells = cells[order]
        ranks = np.arange(len(cells)) - np.searchsorted(cells, cells)
        fits = ranks < SLOTS
        slots[cells[fits], ranks[fits]] = classes[order][fits]
    return slots
