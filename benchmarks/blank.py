"""What the test for blank pages says of generated pages, and what it costs.

    python -m benchmarks.blank [--pages 6]

Prints a line for each kind of page: what it should be, and of how many it is said. Times are
processor time of the one thread.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from benchmarks.results import write_results
from dsvl_pipeline.processor.blank import is_blank

DPI = 144
SIZES = {"1684 px (A4 at 144 dpi)": 1.0, "1024 px": 0.608, "2048 px": 1.216, "3508 px": 2.083}


def _paper(scale: float, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    return Image.new("RGB", (round(1191 * scale), round(1684 * scale)), colour)


def _text(
    page: Image.Image,
    text: str,
    points: float,
    at: tuple[float, float],
    fill: tuple[int, int, int] = (20, 20, 20),
) -> Image.Image:
    """Write text, its size in points of a page that is 842 points high."""
    return _print(page, text, points * page.height / 842, at, fill)


def _print(
    page: Image.Image,
    text: str,
    size_px: float,
    at: tuple[float, float],
    fill: tuple[int, int, int] = (20, 20, 20),
) -> Image.Image:
    font = ImageFont.load_default(size_px)
    ImageDraw.Draw(page).text((at[0] * page.width, at[1] * page.height), text, fill, font)
    return page


def _soft(page: Image.Image, text: str, points: float, grey: int, shift: int) -> Image.Image:
    """Write text as PDF renderers do, without hints: at any quarter of a pixel."""
    size_px = 4 * points * page.height / 842
    large = Image.new("RGB", (2 * page.width, round(2 * size_px) // 4 * 4), page.getpixel((0, 0)))
    font = ImageFont.load_default(size_px)
    ImageDraw.Draw(large).text((shift, shift), text, (grey,) * 3, font)
    page.paste(large.reduce(4), (page.width // 5, page.height // 3))
    return page


def _dots(page: Image.Image, text: str, dot_px: int, pitch_px: int, grey: int = 20) -> Image.Image:
    """Print text as a dot matrix does: a dot for each pixel of a small font."""
    font = ImageFont.load_default_imagefont()
    _, _, width, height = ImageDraw.Draw(page).multiline_textbbox((0, 0), text, font)
    mask = Image.new("1", (round(width), round(height)))
    ImageDraw.Draw(mask).text((0, 0), text, 1, font)
    draw = ImageDraw.Draw(page)
    for y, x in np.argwhere(np.asarray(mask)).tolist():
        left, top = page.width // 5 + x * pitch_px, page.height // 3 + y * pitch_px
        shape = draw.ellipse if dot_px > 2 else draw.rectangle
        shape((left, top, left + dot_px - 1, top + dot_px - 1), (grey,) * 3)
    return page


def _dashes(
    page: Image.Image,
    on_px: int,
    every_px: int,
    *,
    lines: int = 4,
    slope: float = 0.0,
    width_px: int = 1,
) -> Image.Image:
    """Draw the lines of a form, across and down, in dashes."""
    draw = ImageDraw.Draw(page)
    length = page.width // 2
    for line in range(lines):
        start = page.width // 5 + line * length // lines
        for at in range(0, length, every_px):
            near, far = at * slope, (at + on_px - 1) * slope
            x, y = page.width // 5 + at, start
            draw.line((x, y + near, x + on_px - 1, y + far), (20,) * 3, width_px)
            if slope == 0:
                draw.line((y, x, y, x + on_px - 1), (20,) * 3, width_px)
    return page


def _strokes(
    page: Image.Image, random: np.random.Generator, colour: tuple[int, int, int], width_px: int
) -> Image.Image:
    """Write by hand, some loops of it."""
    turns = np.linspace(0, 12, 200)
    x = 0.3 * page.width + turns * 0.02 * page.width + 0.02 * page.width * np.sin(3 * turns)
    y = 0.6 * page.height + 0.012 * page.height * np.cos(3 * turns) * random.uniform(0.5, 1, 200)
    ImageDraw.Draw(page).line(list(zip(x, y, strict=True)), colour, width_px)
    return page


def _stamp(page: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    x, y, radius = 0.7 * page.width, 0.7 * page.height, 0.06 * page.width
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(page).ellipse(box, outline=colour, width=2)
    return _text(page, "RECEIVED", 7, (0.66, 0.695), colour)


def _grid(page: Image.Image, grey: int) -> Image.Image:
    draw = ImageDraw.Draw(page)
    for x in range(page.width // 5, page.width * 4 // 5, page.width // 10):
        draw.line((x, page.height // 4, x, page.height // 2), (grey,) * 3)
    for y in range(page.height // 4, page.height // 2, page.height // 40):
        draw.line((page.width // 5, y, page.width * 4 // 5, y), (grey,) * 3)
    return page


def _camera(page: Image.Image, random: np.random.Generator) -> Image.Image:
    """What a camera makes of a sheet: light from a corner, fibres, grain, JPEG."""
    x, y = np.meshgrid(np.linspace(0, 1, page.width), np.linspace(0, 1, page.height))
    light = 1 - 0.12 * (x**2 + y**2)
    fibres = random.normal(0, 12, (page.height // 6, page.width // 6))
    cloth = Image.fromarray(fibres.astype(np.float32)).resize(page.size, Image.Resampling.BICUBIC)
    pixels = np.asarray(page) * light[..., None] + np.asarray(cloth)[..., None] / 4
    lit = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return _jpeg(_noise(lit.filter(ImageFilter.GaussianBlur(0.6)), 3, random), 85)


def _noise(page: Image.Image, sigma: float, random: np.random.Generator) -> Image.Image:
    grain = random.standard_normal((page.height, page.width, 1), np.float32)
    pixels = np.asarray(page) + np.float32(sigma) * grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _dust(page: Image.Image, random: np.random.Generator, *, num: int, most_px: int) -> Image.Image:
    draw = ImageDraw.Draw(page)
    for _ in range(num):
        x, y = int(random.integers(page.width)), int(random.integers(page.height))
        across, down = map(int, random.integers(0, most_px, 2))
        shade = int(random.integers(20, 140))
        draw.ellipse((x, y, x + across, y + down), fill=(shade, shade, shade))
    return page


def _jpeg(page: Image.Image, quality: int) -> Image.Image:
    body = io.BytesIO()
    page.save(body, "JPEG", quality=quality)
    with Image.open(body) as image:
        return image.convert("RGB")


def _gradient(page: Image.Image, least: int) -> Image.Image:
    slope = np.linspace(1, least / 255, page.width)[None, :, None]
    return Image.fromarray((np.asarray(page) * slope).astype(np.uint8))


def _edges(page: Image.Image, width_px: int) -> Image.Image:
    ImageDraw.Draw(page).rectangle((0, 0, width_px, page.height), fill=(10, 10, 10))
    return page


def _show_through(page: Image.Image, contrast: float) -> Image.Image:
    back = _paper(page.height / 1684)
    for line in range(40):
        _text(back, "what the other side of the sheet says, mirrored " * 2, 11,
              (0.1, 0.08 + line * 0.02), (0, 0, 0))  # fmt: skip
    back = back.transpose(Image.Transpose.FLIP_LEFT_RIGHT).filter(ImageFilter.GaussianBlur(1.2))
    return Image.blend(page, back, contrast)


def _photo(scale: float, random: np.random.Generator) -> Image.Image:
    coarse = random.integers(0, 256, (12, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(_paper(scale).size, Image.Resampling.BICUBIC)


def _scan(page: Image.Image, random: np.random.Generator) -> Image.Image:
    """What a scanner makes of a sheet: paper, grain, dust, dark edges, JPEG."""
    page = _dust(_gradient(page, 225), random, num=60, most_px=3)
    return _jpeg(_noise(_edges(page, round(0.008 * page.width)), 3, random), 75)


CREAM = (250, 245, 225)
Maker = Callable[[float, np.random.Generator], Image.Image]
LINE = "The deed was signed in the year"
WHITE = (255, 255, 255)


def _sheet(width: int, height: int, colour: tuple[int, int, int] = (255, 255, 255)) -> Maker:
    return lambda s, r: Image.new("RGB", (width, height), colour)


def _grainy_jpeg(quality: int, sigma: float) -> Maker:
    return lambda s, r: _jpeg(_noise(_paper(s, CREAM), sigma, r), quality)


def _grey(text: str, points: float, grey: int, at: tuple[float, float] = (0.2, 0.4)) -> Maker:
    return lambda s, r: _text(_paper(s), text, points, at, (grey, grey, grey))


def _unhinted(text: str, points: float, grey: int) -> Maker:
    return lambda s, r: _soft(_paper(s), text, points, grey, int(r.integers(4)))


def _pale(paper: tuple[int, int, int], ink: tuple[int, int, int]) -> Maker:
    return lambda s, r: _text(_paper(s, paper), LINE, 9, (0.3, 0.3), ink)


def _odd(width: int, height: int, size_px: int, grey: int) -> Maker:
    fill = (grey, grey, grey)
    page = _sheet(width, height)
    return lambda s, r: _print(page(s, r), "Total 5", size_px, (0.1, 0.2), fill)


def _dotted(text: str, dot_px: int, pitch_px: int) -> Maker:
    return lambda s, r: _dots(_paper(s), text, dot_px, pitch_px)


def _bilevel(dot_px: int, pitch_px: int) -> Maker:
    text = "\n".join(("Article  Quantity  Price", "Bolts M6     120   14.40", "Nuts M6"))
    page = _sheet(2480, 2480)
    return lambda s, r: _dots(page(s, r), text, dot_px, pitch_px, 0).convert("1").convert("RGB")


BLANK: dict[str, Maker] = {
    "white": lambda s, r: _paper(s),
    "cream": lambda s, r: _paper(s, CREAM),
    "blue": lambda s, r: _paper(s, (40, 90, 160)),
    "black": lambda s, r: _paper(s, (0, 0, 0)),
    "cream, grain": lambda s, r: _noise(_paper(s, CREAM), 6, r),
    "dust, up to 3 px": lambda s, r: _dust(_paper(s), r, num=300, most_px=3),
    "dust, up to 5 px": lambda s, r: _dust(_paper(s), r, num=40, most_px=5),
    "salt and pepper, 1 %": lambda s, r: _pepper(_paper(s), 0.01, r),
    "gradient to 200": lambda s, r: _gradient(_paper(s), 200),
    "JPEG quality 20 of grain": lambda s, r: _jpeg(_noise(_paper(s, CREAM), 8, r), 20),
    "dark edge of 1 %": lambda s, r: _edges(_paper(s), round(0.01 * 1191 * s)),
    "show-through 8 %": lambda s, r: _show_through(_paper(s, CREAM), 0.08),
    "show-through 12 %": lambda s, r: _show_through(_paper(s, CREAM), 0.12),
    "a scan of cream paper": lambda s, r: _scan(_paper(s, CREAM), r),
}
BLANK |= {
    f"{name}, {width} x {height}": _sheet(width, height, colour)
    for name, colour in {"white": (255, 255, 255), "cream": CREAM, "red": (190, 30, 40)}.items()
    for width, height in ((96, 128), (16384, 40), (30, 2000))
}
BLANK |= {
    f"JPEG quality {quality} of grain {sigma}": _grainy_jpeg(quality, sigma)
    for quality, sigma in ((10, 4), (30, 2), (50, 3), (75, 8), (90, 10))
}
BLANK |= {
    "white, grain 1": lambda s, r: _noise(_paper(s), 1, r),
    "grey, grain 12": lambda s, r: _noise(_paper(s, (128, 128, 128)), 12, r),
    "salt and pepper, 0.5 %": lambda s, r: _pepper(_paper(s), 0.005, r),
    "dust, up to 3 px, much of it": lambda s, r: _dust(
        _paper(s), r, num=round(1000 * s * s), most_px=3
    ),
    "salt and pepper, 1.5 %": lambda s, r: _pepper(_paper(s), 0.015, r),
    "black, white dust up to 3 px": lambda s, r: ImageOps.invert(
        _dust(_paper(s), r, num=200, most_px=3)
    ),
    "a thumbnail with dust": lambda s, r: _dust(
        Image.new("RGB", (210, 297), CREAM), r, num=8, most_px=3
    ),
    "gradient to 200, downwards": lambda s, r: _gradient(
        _paper(s).transpose(Image.Transpose.ROTATE_90), 200
    ).transpose(Image.Transpose.ROTATE_270),
    "dark edges all around": lambda s, r: ImageOps.expand(
        _paper(s, CREAM), round(9 * s), (12, 12, 12)
    ),
    "a dark edge that is askew": lambda s, r: _wedge(_paper(s)),
    "a scan with show-through 8 %": lambda s, r: _scan(_show_through(_paper(s, CREAM), 0.08), r),
    "a scan with show-through 12 %": lambda s, r: _scan(_show_through(_paper(s, CREAM), 0.12), r),
    "a camera's picture of white paper": lambda s, r: _camera(_paper(s, (245, 245, 245)), r),
}
NOT_BLANK: dict[str, Maker] = {
    "a page number 3, 10 pt, in a corner": lambda s, r: _text(_paper(s), "3", 10, (0.93, 0.955)),
    "a page number 3, 8 pt, at the foot": lambda s, r: _text(_paper(s), "3", 8, (0.5, 0.95)),
    "a page number 1, 10 pt": lambda s, r: _text(_paper(s), "1", 10, (0.5, 0.95)),
    "a line of 6 pt": lambda s, r: _text(_paper(s), "All rights reserved.", 6, (0.4, 0.6)),
    "a line of 6 pt, grey 130": lambda s, r: _text(
        _paper(s), "All rights reserved.", 6, (0.4, 0.6), (130, 130, 130)
    ),
    "a line of 10 pt, yellow": lambda s, r: _text(
        _paper(s), "Please turn over", 10, (0.4, 0.5), (240, 220, 60)
    ),
    "white on black, 12 pt": lambda s, r: _text(
        _paper(s, (0, 0, 0)), "Chapter one", 12, (0.4, 0.5), (255, 255, 255)
    ),
    "a rule of 2 px": lambda s, r: _rule(_paper(s), 2),
    "a scan with a 10 pt page number": lambda s, r: _scan(
        _text(_paper(s, CREAM), "12", 10, (0.5, 0.95)), r
    ),
    "a scan with one line of 9 pt": lambda s, r: _scan(
        _text(_paper(s, CREAM), "This page intentionally left blank.", 9, (0.35, 0.5)), r
    ),
    "half a page grey": lambda s, r: _half(_paper(s)),
    "a photo": _photo,
    "a page of text": lambda s, r: _full(_paper(s)),
}
NOT_BLANK |= {
    f"a line of {points} pt, grey {grey}": _grey(LINE, points, grey)
    for points, grey in ((10, 200), (10, 222), (10, 235), (8, 230), (6, 210), (40, 235), (4, 120))
}
NOT_BLANK |= {
    f"a line of {points} pt, grey {grey}, no hints": _unhinted(LINE, points, grey)
    for points, grey in ((10, 222), (10, 235), (8, 222), (6, 200), (5, 60))
}
NOT_BLANK |= {
    f"a pale line, {name}": _pale(paper, ink)
    for name, (paper, ink) in {
        "yellow on white": (WHITE, (255, 255, 220)),
        "pink on white": (WHITE, (255, 228, 230)),
        "blue on white": (WHITE, (225, 235, 255)),
        "on cream": (CREAM, (232, 226, 205)),
        "lighter than cream": ((235, 225, 200), (255, 250, 235)),
        "on black": ((0, 0, 0), (30, 30, 30)),
        "on blue": ((40, 90, 160), (60, 110, 180)),
    }.items()
}
NOT_BLANK |= {
    f"a lone {text}, {points} pt, grey {grey}": _grey(text, points, grey, at)
    for text, points, grey, at in (
        ("7", 8, 0, (0.5, 0.5)),
        ("7", 8, 180, (0.9, 0.03)),
        ("- 3 -", 8, 180, (0.48, 0.94)),
        ("1", 8, 0, (0.03, 0.03)),
        ("1", 6, 60, (0.5, 0.95)),
        ("iv", 8, 200, (0.5, 0.95)),
        ("x", 12, 222, (0.2, 0.2)),
        ("000123", 7, 30, (0.8, 0.985)),  # in the margin, as numbers of exhibits are
    )
}
NOT_BLANK |= {
    f"{width} x {height}, {px} px, grey {grey}": _odd(width, height, px, grey)
    for width, height, px, grey in (
        (16384, 40, 20, 0),
        (16384, 40, 12, 180),
        (40, 16384, 8, 60),
        (2000, 30, 14, 222),
        (60, 80, 8, 30),
        (96, 128, 6, 120),
        (150, 200, 8, 200),
        (210, 297, 7, 90),
        (300, 900, 10, 215),
        (420, 594, 9, 60),
    )
}
NOT_BLANK |= {
    "a receipt as a thumbnail, JPEG": lambda s, r: _jpeg(
        _print(Image.new("RGB", (120, 360), (248, 248, 244)), "Milk 1.20", 9, (0.1, 0.3)), 70
    ),
    "a scan with a line of grey 190": lambda s, r: _scan(
        _text(_paper(s, CREAM), LINE, 10, (0.2, 0.4), (190, 186, 170)), r
    ),
    "grain with a line of grey 160": lambda s, r: _noise(
        _text(_paper(s, CREAM), LINE, 10, (0.2, 0.4), (160, 158, 150)), 8, r
    ),
    "a page full of grey 222": lambda s, r: _full(_paper(s), (222, 222, 222)),
    "a page full of grey 235": lambda s, r: _full(_paper(s), (235, 235, 235)),
    "pencil on paper": lambda s, r: _jpeg(
        _noise(_strokes(_paper(s, CREAM), r, (165, 163, 158), 2), 4, r), 85
    ),
    "faint pencil, a camera's picture": lambda s, r: _camera(
        _strokes(_paper(s, (245, 245, 245)), r, (165, 165, 165), 3), r
    ),
    "a line, a camera's picture": lambda s, r: _camera(_text(_paper(s), LINE, 8, (0.3, 0.5)), r),
    "a signature in blue": lambda s, r: _strokes(_paper(s), r, (60, 80, 190), 1),
    "a line to sign on": lambda s, r: _rule(_paper(s), 1),
    "a pale red stamp": lambda s, r: _stamp(_paper(s), (240, 200, 200)),
    "a scan with a red stamp": lambda s, r: _scan(_stamp(_paper(s, CREAM), (200, 90, 90)), r),
    "a thin grid, grey 170": lambda s, r: _grid(_paper(s), 170),
    "a thin grid, grey 225": lambda s, r: _grid(_paper(s), 225),
    "out of focus": lambda s, r: _text(_paper(s), LINE, 12, (0.2, 0.4)).filter(
        ImageFilter.GaussianBlur(2)
    ),
}
INVOICE = "INVOICE No 12345 TOTAL 99.50"
NOT_BLANK |= {
    f"dots of {dot} px every {pitch}: {text}": _dotted(text, dot, pitch)
    for dot, pitch, text in (
        (2, 3, INVOICE),
        (2, 4, INVOICE),
        (3, 4, INVOICE),
        (1, 3, INVOICE),
        (3, 5, INVOICE),
        (2, 4, "7"),
        (2, 3, "Please"),
    )
}
NOT_BLANK |= {
    f"dot matrix, 300 dpi, one bit, dots of {dot} every {pitch} px": _bilevel(dot, pitch)
    for dot, pitch in ((4, 7), (4, 8), (5, 7))
}
NOT_BLANK |= {
    "dots, grey 160": lambda s, r: _dots(_paper(s), INVOICE, 2, 4, 160),
    "white dots on black": lambda s, r: _dots(_paper(s, (0, 0, 0)), INVOICE, 2, 4, 255),
    "dots among salt and pepper, 0.5 %": lambda s, r: _pepper(
        _dots(_paper(s), INVOICE, 2, 3), 0.005, r
    ),
    "a scan of a dot matrix": lambda s, r: _scan(_dots(_paper(s, CREAM), INVOICE, 2, 4), r),
    "a form of dashes, 6 px of 12": lambda s, r: _dashes(_paper(s), 6, 12),
    "a form of dashes, 4 px of 8, wide": lambda s, r: _dashes(_paper(s), 4, 8, width_px=2),
    "a form of dots, 1 px of 4": lambda s, r: _dashes(_paper(s), 1, 4),
    "dashes, 6 px of 12, askew by a degree": lambda s, r: _dashes(_paper(s), 6, 12, slope=0.0175),
    "a form of dashes all over": lambda s, r: _dashes(_paper(s), 6, 12, lines=20),
    "a scan of dashes": lambda s, r: _scan(_dashes(_paper(s, CREAM), 6, 12), r),
    "dots in a row": lambda s, r: _text(_paper(s), "......", 10, (0.2, 0.5)),
    "dots in a row, apart": lambda s, r: _text(_paper(s), ". " * 20, 10, (0.2, 0.5)),
    "a leader of dots, 8 pt": lambda s, r: _text(_paper(s), "." * 80, 8, (0.2, 0.5)),
}
EITHER: dict[str, Maker] = {
    "show-through 20 %": lambda s, r: _show_through(_paper(s, CREAM), 0.20),
    "show-through 30 %": lambda s, r: _show_through(_paper(s, CREAM), 0.30),
    "a scan with show-through 20 %": lambda s, r: _scan(_show_through(_paper(s, CREAM), 0.20), r),
    "a scan with show-through 30 %": lambda s, r: _scan(_show_through(_paper(s, CREAM), 0.30), r),
    "a lone full stop": lambda s, r: _text(_paper(s), ".", 10, (0.5, 0.5)),
    "a line of 10 pt, grey 245": lambda s, r: _text(_paper(s), LINE, 10, (0.2, 0.4), (245,) * 3),
    "grain with a line of grey 222": lambda s, r: _noise(
        _text(_paper(s), LINE, 10, (0.2, 0.4), (222,) * 3), 6, r
    ),
    "a dark edge of 3 %": lambda s, r: _edges(_paper(s), round(0.03 * 1191 * s)),
    "dust, up to 9 px": lambda s, r: _dust(_paper(s), r, num=10, most_px=9),
}


def _pepper(page: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    pixels: NDArray[np.uint8] = np.array(page)
    pixels[random.random(pixels.shape[:2]) < share] = 0
    return Image.fromarray(pixels)


def _wedge(page: Image.Image) -> Image.Image:
    corners = [(0, 0), (0.015 * page.width, 0), (0, page.height)]
    ImageDraw.Draw(page).polygon(corners, fill=(25, 25, 25))
    return page


def _rule(page: Image.Image, width_px: int) -> Image.Image:
    y = page.height // 3
    ImageDraw.Draw(page).line((100, y, page.width - 100, y), (0, 0, 0), width_px)
    return page


def _half(page: Image.Image) -> Image.Image:
    box = (0, page.height // 2, page.width, page.height)
    ImageDraw.Draw(page).rectangle(box, fill=(120, 120, 120))
    return page


def _full(page: Image.Image, fill: tuple[int, int, int] = (20, 20, 20)) -> Image.Image:
    fox = "the quick brown fox jumps over the lazy dog " * 2
    for line in range(45):
        _text(page, fox, 10, (0.1, 0.06 + line / 50), fill)
    return page


def figures(scale: float, num_each: int) -> Iterator[tuple[str, str, int, float]]:
    """Give each kind of page, what it should be, how many are called blank, and ms a page."""
    for wanted, makers in (("blank", BLANK), ("not blank", NOT_BLANK), ("either", EITHER)):
        for name, make in makers.items():
            pages = [make(scale, np.random.default_rng(seed)) for seed in range(num_each)]
            begun_s = time.thread_time()
            count = sum(map(is_blank, pages))
            yield name, wanted, count, 1000 * (time.thread_time() - begun_s) / num_each


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=6, help="number of pages of each kind")
    num_each: int = parser.parse_args().pages
    found: dict[str, list[dict[str, str | int | float]]] = {}
    for size, scale in SIZES.items():
        print(f"pages of {size}")
        found[size] = []
        for name, wanted, count, milliseconds in figures(scale, num_each):
            is_right = wanted == "either" or count == (num_each if wanted == "blank" else 0)
            mark = " " if is_right else "!"
            print(f"{mark} {name:45} {wanted:10} {count:3} of {num_each} {milliseconds:7.1f} ms")
            found[size].append(
                {"kind": name, "wanted": wanted, "blank": count, "ms": round(milliseconds, 1)}
            )
    write_results("blank", {"pages_of_each_kind": num_each, "pages": found})


if __name__ == "__main__":
    main()
