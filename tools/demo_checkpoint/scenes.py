"""Scenes of coloured shapes, and the one caption that each has.

A scene holds one to three groups; a group's shapes are equal and of one colour. Groups lie beside
or above each other, never both, so the caption names them from left to right or from top to bottom:
``two red circles above a blue square``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.demo_checkpoint.drawing import (
    CLASS_OF,
    COLOURS,
    GRID,
    PALETTE_SIZE,
    SHAPES,
    SIDE,
    SLOTS,
    Drawing,
    Frame,
    move,
    random_effects,
    random_frame,
    random_matrix,
)

Point = tuple[float, float]
Relation = Literal["above", "left of"]

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_MOST = {1: 5, 2: 4, 3: 2}  # shapes of a group, by how many groups there are
_DEGREES = (-8, -4, 0, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One shape: where it is and how large; ``radius`` reaches to its farthest corner."""

    centre: Point
    radius: int
    degrees: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Equal shapes of one colour."""

    shape: str
    colour: str
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is to be drawn inside a frame."""

    groups: tuple[Group, ...]
    relation: Relation

    @property
    def caption(self) -> str:
        """The scene in words."""
        return f" {self.relation} ".join(map(_name, self.groups))


def random_scene(random: Random, frame: Frame) -> Scene:
    """Choose groups, and places where they neither touch each other nor the frame."""
    relation: Relation = random.choice(("above", "left of"))
    num_groups = random.choices((1, 2, 3), (25, 50, 25))[0]
    kinds = random.sample([(s, c) for s in SHAPES for c in COLOURS], num_groups)
    groups = []
    for (shape, colour), region in zip(
        kinds, _regions(random, frame, relation, num_groups), strict=True
    ):
        count = random.randint(1, _MOST[num_groups])
        things = tuple(_place(random, region, count))
        groups.append(Group(shape=shape, colour=colour, things=things))
    return Scene(groups=tuple(groups), relation=relation)


def drawing(random: Random) -> Drawing:
    """Draw a scene for training."""
    frame = random_frame(random, least_ratio=0.5)
    scene = random_scene(random, frame)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    palette = np.zeros((PALETTE_SIZE, 3))
    palette[0] = background(random)
    matrix = random_matrix(random, max_degrees=3)
    slots = np.zeros((GRID * GRID, SLOTS), np.uint8)
    for index, group in enumerate(scene.groups, start=1):
        palette[index] = [value + random.uniform(-22, 22) for value in COLOURS[group.colour]]
        classes = CLASS_OF[group.shape], CLASS_OF[group.colour]
        for thing in group.things:
            _stamp(canvas, mask(group.shape, thing.radius, thing.degrees), thing.centre, index)
            slots[_cells(thing, matrix), :2] = classes
    return Drawing(
        canvas=canvas,
        palette=palette.clip(0, 255).astype(np.uint8),
        is_scene=True,
        frame=frame,
        effects=random_effects(random, matrix),
        answer=scene.caption,
        slots=slots,
    )


def background(random: Random) -> tuple[float, float, float]:
    """Choose a light colour that no shape has."""
    light = random.uniform(205, 255)
    red, green, blue = (light + random.uniform(-14, 14) for _ in range(3))
    return red, green, blue


def outline(shape: str, centre: Point, radius: float, degrees: float) -> list[Point]:
    """Give the corners of a shape; of a circle 48."""
    turns: list[tuple[float, float]]  # angle from the top in degrees, share of the radius
    match shape:
        case "circle":
            turns = [(7.5 * index, 0.85) for index in range(48)]
        case "square":
            turns = [(45 + 90 * index, 1.0) for index in range(4)]
        case "triangle":
            turns = [(120 * index, 1.0) for index in range(3)]
        case "diamond":  # taller than wide: no turned square
            turns = [(0, 1.0), (90, 0.62), (180, 1.0), (270, 0.62)]
        case "star":
            turns = [(36 * index, 0.42 if index % 2 else 1.0) for index in range(10)]
        case "cross":
            arm = math.degrees(math.atan2(0.32, 1.0))
            turns = []
            for index in range(4):
                quarter = 90.0 * index
                turns += [(quarter - arm, 1.0), (quarter + arm, 1.0), (quarter + 45, 0.43)]
        case _:
            raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    corners = []
    for turn, share in turns:
        angle = math.radians(turn + degrees)
        x = centre[0] + radius * share * math.sin(angle)
        corners.append((x, centre[1] - radius * share * math.cos(angle)))
    return corners


@cache
def mask(shape: str, radius: int, degrees: int) -> NDArray[np.bool_]:
    """Draw a shape once: ``bool[2 * radius + 1, 2 * radius + 1]``."""
    image = Image.new("1", (2 * radius + 1, 2 * radius + 1))
    ImageDraw.Draw(image).polygon(outline(shape, (radius, radius), radius, degrees), fill=1)
    return np.asarray(image)


def _name(group: Group) -> str:
    count, kind = len(group.things), f"{group.colour} {group.shape}"
    if count == 1:
        return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    return f"{_NUMBERS[count]} {kind}{'es' if kind.endswith('s') else 's'}"


def _regions(random: Random, frame: Frame, relation: Relation, count: int) -> Iterator[Frame]:
    """Cut the frame into ``count`` regions, above or beside each other."""
    left, top, right, bottom = frame
    shares = [random.uniform(0.8, 1.2) for _ in range(count)]
    start = 0.0
    for share in shares:
        end = start + share / sum(shares)
        if relation == "above":
            height = bottom - top
            yield left, top + round(start * height), right, top + round(end * height)
        else:
            width = right - left
            yield left + round(start * width), top, left + round(end * width), bottom
        start = end


def _place(random: Random, region: Frame, count: int) -> list[Thing]:
    """Choose places that keep clear of each other; smaller ones where there is no room."""
    left, top, right, bottom = region
    most = min(right - left, bottom - top) * 0.44
    if count > 1:
        most = min(most, 0.42 * math.sqrt((right - left) * (bottom - top) / count))
    radius = random.uniform(min(18, most), min(64, most))
    while True:
        things: list[Thing] = []
        for _ in range(60):
            size = int(radius * random.uniform(0.88, 1.0))
            x = random.uniform(left + size + 4, right - size - 4)
            y = random.uniform(top + size + 4, bottom - size - 4)
            if all(math.dist((x, y), t.centre) > size + t.radius + 5 for t in things):
                degrees = random.choice(_DEGREES)
                things.append(Thing(centre=(x, y), radius=size, degrees=degrees))
                if len(things) == count:
                    return things
        radius *= 0.85


def _stamp(canvas: NDArray[np.uint8], shape: NDArray[np.bool_], centre: Point, value: int) -> None:
    radius = shape.shape[0] // 2
    x, y = round(centre[0]) - radius, round(centre[1]) - radius
    canvas[y : y + shape.shape[0], x : x + shape.shape[1]][shape] = value


def _cells(thing: Thing, matrix: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which cells a shape covers: its centre's, and those whose centre lies well inside it."""
    centre = move(np.array([thing.centre]), matrix)
    places = (np.arange(GRID) + 0.5) * (SIDE / GRID)
    middles = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)  # (256, 2): x, y
    distances = np.linalg.norm(middles - centre, axis=1)
    covered: NDArray[np.bool_] = (distances < 0.55 * thing.radius) | (distances == distances.min())
    return covered
