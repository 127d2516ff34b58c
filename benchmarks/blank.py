"""What the test for blank pages says of generated pages, and what it costs.

    python -m benchmarks.blank

Prints a line for each kind of page: what it should be, and of how many it is said.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from dsvl_pipeline.processor.blank import is_blank

DPI = 144
NUM_EACH = 12
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
    font = ImageFont.load_default(points * page.height / 842)
    ImageDraw.Draw(page).text((at[0] * page.width, at[1] * page.height), text, fill, font)
    return page


def _noise(page: Image.Image, sigma: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(page) + random.normal(0, sigma, (page.height, page.width, 1))
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
EITHER: dict[str, Maker] = {
    "show-through 20 %": lambda s, r: _show_through(_paper(s, CREAM), 0.20),
    "show-through 30 %": lambda s, r: _show_through(_paper(s, CREAM), 0.30),
    "a rule of 1 px": lambda s, r: _rule(_paper(s), 1),
    "dust, up to 9 px": lambda s, r: _dust(_paper(s), r, num=10, most_px=9),
}


def _pepper(page: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    pixels: NDArray[np.uint8] = np.array(page)
    pixels[random.random(pixels.shape[:2]) < share] = 0
    return Image.fromarray(pixels)


def _rule(page: Image.Image, width_px: int) -> Image.Image:
    y = page.height // 3
    ImageDraw.Draw(page).line((100, y, page.width - 100, y), (0, 0, 0), width_px)
    return page


def _half(page: Image.Image) -> Image.Image:
    box = (0, page.height // 2, page.width, page.height)
    ImageDraw.Draw(page).rectangle(box, fill=(120, 120, 120))
    return page


def _full(page: Image.Image) -> Image.Image:
    for line in range(45):
        _text(page, "the quick brown fox jumps over the lazy dog " * 2, 10, (0.1, 0.06 + line / 50))
    return page


def figures(scale: float) -> Iterator[tuple[str, str, int, float]]:
    """Give each kind of page, what it should be, how many are called blank, and ms a page."""
    for wanted, makers in (("blank", BLANK), ("not blank", NOT_BLANK), ("either", EITHER)):
        for name, make in makers.items():
            pages = [make(scale, np.random.default_rng(seed)) for seed in range(NUM_EACH)]
            begun_s = time.perf_counter()
            count = sum(map(is_blank, pages))
            yield name, wanted, count, 1000 * (time.perf_counter() - begun_s) / NUM_EACH


def main() -> None:
    """Print the figures."""
    for size, scale in SIZES.items():
        print(f"pages of {size}")
        for name, wanted, count, milliseconds in figures(scale):
            is_right = wanted == "either" or count == (NUM_EACH if wanted == "blank" else 0)
            mark = " " if is_right else "!"
            print(f"{mark} {name:40} {wanted:10} {count:3} of {NUM_EACH} {milliseconds:7.1f} ms")
    photo = _photo(1.216, np.random.default_rng(0))
    begun_s = time.perf_counter()
    for find in (photo.getextrema,) * 10:
        find()
    print(f"before, extremes of all channels: {100 * (time.perf_counter() - begun_s):.1f} ms")


if __name__ == "__main__":
    main()
