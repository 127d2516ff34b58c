"""Draw the demo's sample inputs (``python -m tools.demo_samples``).

Pages of text, simple scenes, one file of each kind that decoders treat in their own way, one that
is broken, and a PDF. The same seed and Pillow version give the same bytes.
"""

from __future__ import annotations

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SEED = 20260
SIDE = 512
SAMPLES = Path(__file__).parents[1] / "dsvl_pipeline" / "demo" / "samples"

_PAGES = {
    "page-letter": [
        "Dear Ms. Sommer,",
        "thank you for the two boxes",
        "of apples. They came on time",
        "and every one was sound.",
        "Please send three more boxes",
        "before the 14th of October.",
        "Yours, P. Winter",
    ],
    "page-list": ["Shopping", "1  flour", "2  eggs", "3  butter", "4  sugar", "5  lemons"],
    "page-invoice": [
        "Invoice 2041",
        "12 bolts M8        4.80",
        "30 washers         1.50",
        "1 wrench          11.90",
        "Total             18.20",
        "Due within 30 days",
    ],
    "page-sign": ["OPEN", "Mon to Fri", "9 to 17"],
}
CHAPTERS = [
    ["Chapter 1", "", "A row goes in and exactly", "one row comes out."],
    ["Chapter 2", "", "What is broken is marked,", "never dropped."],
    ["Chapter 3", "", "The same command again", "goes on where it stopped."],
]


def page(
    lines: list[str], *, size: int = 30, paper: str = "white", ink: str = "black"
) -> Image.Image:
    """Set lines of text, left-aligned, on a square page."""
    image = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((28, 28 + number * size * 1.5), line, fill=ink, font=font)
    return image


def landscape(random_: random.Random, *, sky: str, ground: str, sun: str) -> Image.Image:
    """Draw a sky with a sun, hills and trees."""
    image = Image.new("RGB", (SIDE, SIDE * 3 // 4), sky)
    draw = ImageDraw.Draw(image)
    x = random_.randrange(80, 380)
    draw.ellipse((x, 40, x + 80, 120), fill=sun)
    for _ in range(4):
        x, y = random_.randrange(-80, 400), random_.randrange(210, 280)
        draw.ellipse((x, y, x + 320, y + 300), fill=ground)
    for _ in range(5):
        x, y = random_.randrange(30, 470), random_.randrange(270, 340)
        draw.rectangle((x - 5, y, x + 5, y + 34), fill="saddlebrown")
        draw.polygon([(x - 30, y + 4), (x + 30, y + 4), (x, y - 64)], fill="darkgreen")
    return image


def shapes(random_: random.Random) -> Image.Image:
    """Draw a circle, a square and a triangle beside each other."""
    image = Image.new("RGB", (SIDE, SIDE // 2), "ivory")
    draw = ImageDraw.Draw(image)
    red, blue, green = random_.sample(["crimson", "royalblue", "seagreen"], 3)
    draw.ellipse((40, 70, 150, 180), fill=red)
    draw.rectangle((200, 70, 310, 180), fill=blue)
    draw.polygon([(360, 180), (470, 180), (415, 70)], fill=green)
    return image


def grey_16_bit() -> Image.Image:
    """Draw 16 steps of grey, most of them beyond what 8 bits hold."""
    steps = np.arange(SIDE, dtype="<u2") // 32 * 0x1000 + 0x0FFF
    return Image.frombytes("I;16", (SIDE, 128), steps.astype("<u2").tobytes() * 128)


def see_through() -> Image.Image:
    """Draw a disc whose alpha falls off to its rim, on nothing."""
    alpha = Image.radial_gradient("L").point(lambda value: max(0, 255 - 2 * value))
    image = Image.new("RGBA", alpha.size, (20, 90, 200, 0))
    image.putalpha(alpha)
    return image


def samples() -> dict[str, bytes]:
    """Draw everything: file name to bytes."""
    random_ = random.Random(SEED)
    pages = {name: page(lines) for name, lines in _PAGES.items()}
    day = landscape(random_, sky="lightskyblue", ground="yellowgreen", sun="gold")
    evening = landscape(random_, sky="lightsalmon", ground="darkolivegreen", sun="orangered")
    signs = shapes(random_)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side; viewers turn it by 90 degrees
    lying = page(["This page lies", "on its side in", "the file."]).transpose(
        Image.Transpose.ROTATE_90
    )
    receipt = page(["Tea      2.10", "Cake     3.40", "Sum      5.50"], paper="beige", ink="navy")
    chapters = [page(lines, size=34) for lines in CHAPTERS]
    photo = _encode(day, "JPEG", quality=80)
    return {
        "page-letter.png": _encode(pages["page-letter"].convert("L"), "PNG"),
        "page-list.png": _encode(pages["page-list"].convert("1"), "PNG"),
        "page-invoice.jpg": _encode(pages["page-invoice"], "JPEG", quality=70),
        "page-sign.bmp": _encode(pages["page-sign"].convert("1"), "BMP"),
        "page-receipt.webp": _encode(receipt.crop((0, 0, 300, 220)), "WEBP", quality=80),
        "exif-rotated.jpg": _encode(lying, "JPEG", quality=70, exif=turned.tobytes()),
        "scene-day.jpg": photo,
        "scene-evening.webp": _encode(evening, "WEBP", quality=80),
        "scene-shapes.png": _encode(signs, "PNG"),
        "palette.png": _encode(signs.quantize(8), "PNG"),
        "grey-16-bit.png": _encode(grey_16_bit(), "PNG"),
        "alpha.png": _encode(see_through(), "PNG"),
        "cmyk.jpg": _encode(evening.convert("CMYK"), "JPEG", quality=75),
        "animation.gif": _encode(
            signs.quantize(8), "GIF", save_all=True, append_images=[evening.quantize(8)]
        ),
        "blank.png": _encode(Image.new("L", (SIDE, SIDE), 255), "PNG"),
        "broken.jpg": photo[: len(photo) // 2],
        "handbook.pdf": _encode(
            chapters[0],
            "PDF",
            save_all=True,
            append_images=chapters[1:],
            resolution=96,
            title="Handbook",
            creationDate=time.gmtime(0),
            modDate=time.gmtime(0),
        ),
    }


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    """Write the samples into the package."""
    SAMPLES.mkdir(exist_ok=True)
    for name, data in samples().items():
        (SAMPLES / name).write_bytes(data)
        print(f"{name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
