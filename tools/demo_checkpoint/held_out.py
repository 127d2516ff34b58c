"""Pages and scenes for evaluation: other texts, other seeds, and drawn another way.

Text is set by Pillow a line at a time, on pages of other sizes than the model's, with words that
training never uses; scenes are drawn as polygons. Everything then goes the way of any file.
"""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tools.demo_checkpoint import scenes, text
from tools.demo_checkpoint.drawing import COLOURS, RGB, random_frame
from tools.demo_checkpoint.glyphs import faces, font
from tools.demo_checkpoint.words import HELD_OUT

_SIZES_PX = (20, 50)  # of type, where the page's longer edge is 512
_MARGIN = 8


def page(seed: int) -> tuple[Image.Image, str]:
    """Draw a page of 1 to 12 lines of at most 32 characters, and give its text."""
    random = Random(f"held-out page {seed}")
    left, top, right, bottom = random_frame(random, least_ratio=0.65)
    scale = random.uniform(0.9, 2.4)  # longer edge from 460 to 1230 px
    width, height = round((right - left) * scale), round((bottom - top) * scale)
    num_lines = random.randint(1, 12)
    largest = max(_SIZES_PX[0], min(_SIZES_PX[1], (bottom - top) / (num_lines * 1.3)))
    size = random.uniform(_SIZES_PX[0], largest)
    face = font(random.choice(list(faces())), round(size * scale))
    pitch = face.size * random.uniform(1.15, 1.5)
    num_lines = max(1, min(num_lines, int((height - 2 * _MARGIN * scale) / pitch)))
    lines = text.lines(random, HELD_OUT, count=num_lines, max_chars=32)
    room = width - 2 * _MARGIN * scale
    lines = [_fit(line, face, room) for line in lines]
    spare_x = room - max(face.getlength(line) for line in lines)
    spare_y = height - 2 * _MARGIN * scale - num_lines * pitch
    x = _MARGIN * scale + random.random() * spare_x
    y = _MARGIN * scale + random.random() * max(0.0, spare_y)
    paper, ink = _grey(random, 180, 255), _grey(random, 0, 70)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((x, y + index * pitch), line, fill=ink, font=face)
    if x > 25 * scale and y > 15 * scale and spare_x > 30 * scale and spare_y > 40 * scale:
        degrees = random.uniform(-1.5, 1.5) * (random.random() < 0.5)
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=paper)
    return _spoil(random, image, scale), "\n".join(lines)


def scene(seed: int) -> tuple[Image.Image, str]:
    """Draw a scene, and give its caption."""
    random = Random(f"held-out scene {seed}")
    frame = random_frame(random, least_ratio=0.55)
    left, top, right, bottom = frame
    drawn = scenes.random_scene(random, frame)
    scale = random.uniform(0.9, 2.0)
    paper = _rgb(scenes.background(random))
    size = round((right - left) * scale), round((bottom - top) * scale)
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    for group in drawn.groups:
        colour = _rgb([value + random.uniform(-15, 15) for value in COLOURS[group.colour]])
        for thing in group.things:
            centre = (thing.centre[0] - left) * scale, (thing.centre[1] - top) * scale
            corners = scenes.outline(group.shape, centre, thing.radius * scale, thing.degrees)
            draw.polygon(corners, fill=colour)
    return _spoil(random, image, scale), drawn.caption


def _fit(line: str, face: ImageFont.FreeTypeFont, room: float) -> str:
    while face.getlength(line) > room:
        line = line[:-1].rstrip()
    return line


def _spoil(random: Random, image: Image.Image, scale: float) -> Image.Image:
    """Blur a little, and add a little noise."""
    if random.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.7) * scale))
    if random.random() < 0.4:
        noise = np.random.default_rng(random.getrandbits(32)).normal(
            0, random.uniform(0, 10), (image.height, image.width, 1)
        )
        noisy = np.asarray(image) + noise
        image = Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
    return image


def _grey(random: Random, least: int, most: int) -> RGB:
    """A grey with a slight tint."""
    light = random.uniform(least, most)
    return _rgb([light + random.uniform(-8, 8) for _ in range(3)])


def _rgb(values: list[float] | tuple[float, float, float]) -> RGB:
    red, green, blue = (min(255, max(0, round(value))) for value in values)
    return red, green, blue
