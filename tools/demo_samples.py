"""Draw the demo's sample inputs (``python -m tools.demo_samples``).

Pages and scenes that the demo checkpoint can read, one file of each kind that decoders treat in
their own way, two pictures it has no business understanding, a broken file, and a PDF. The same
Pillow version gives the same bytes.
"""

from __future__ import annotations

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.demo_checkpoint import held_out

SIDE = 512
SAMPLES = Path(__file__).parents[1] / "dsvl_pipeline" / "demo" / "samples"

PAGES = {
    "page-letter.png": [
        "Dear Ms. Sommer,",
        "thank you for the two boxes",
        "of apples. They came on time",
        "and every one was sound.",
        "Please send three more boxes",
        "before the 14th of October.",
        "Yours, P. Winter",
    ],
    "page-list.png": ["Shopping", "1 flour", "2 eggs", "3 butter", "4 sugar", "5 lemons"],
    "page-invoice.jpg": [
        "Invoice 2041",
        "12 bolts M8 4.80",
        "30 washers 1.50",
        "1 wrench 11.90",
        "Total 18.20",
        "Due within 30 days",
    ],
    "page-notice.png": [
        "NOTICE TO ALL READERS",
        "The library is closed from the",
        "3rd to the 9th of August. Books",
        "that are due in this time may be",
        "kept until the 12th. Ask at the",
        "desk (room 0.14) for a longer",
        "loan; each further day costs",
        '$0.25. "Reserved" items cannot',
        "be kept. Mail: desk@lib.example",
        "Call 555-0142, 9:30-17:00, or",
        "write to 7 Mill Lane #3.",
        "THANK YOU!",
    ],
    "page-receipt.webp": ["Tea 2.10", "Cake 3.40", "Sum 5.50"],
    "page-sign.bmp": ["OPEN", "Mon to Fri", "9 to 17"],
    "exif-rotated.jpg": ["This page lies", "on its side in", "the file."],
    "grey-16-bit.png": ["65,536 greys,", "of which this", "page uses two."],
}
"""The pages' lines, by file."""

CHAPTERS = [
    [
        "Chapter 1: Rows",
        "",
        "A row goes in and exactly",
        "one row comes out. Ask for",
        "20 answers, and 20 are in",
        "the table, each with the",
        "name of its file.",
    ],
    [
        "Chapter 2: Failures",
        "",
        "What is broken is marked,",
        "never dropped: a torn file",
        "has the status 'error' and",
        "says what was wrong.",
    ],
    [
        "Chapter 3: Again",
        "",
        "The same command again",
        "goes on where it stopped.",
        "Nothing is computed twice,",
        "unless you ask for --fresh.",
    ],
]
"""The PDF's lines, by page."""

SCENES = {
    "scene-shapes.png": 2_000_005,
    "scene-photo.jpg": 2_000_009,
    "scene-small.webp": 2_000_002,
    "palette.png": 2_000_033,
    "cmyk.jpg": 2_000_027,
    "alpha.png": 2_000_044,
    "animation.gif": 2_000_048,
}
"""Seeds of the scenes, by file; evaluation uses others."""


def page(
    lines: list[str], *, size: int = 30, paper: str = "white", ink: str = "black"
) -> Image.Image:
    """Set lines of text, left-aligned, on a square page."""
    image = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((24, 24 + number * size * 1.4), line, fill=ink, font=font)
    return image


def landscape() -> Image.Image:
    """Draw a sky with a sun, hills and trees."""
    random_ = random.Random("landscape")
    image = Image.new("RGB", (SIDE, SIDE * 3 // 4), "lightskyblue")
    draw = ImageDraw.Draw(image)
    x = random_.randrange(80, 380)
    draw.ellipse((x, 40, x + 80, 120), fill="gold")
    for _ in range(4):
        x, y = random_.randrange(-80, 400), random_.randrange(210, 280)
        draw.ellipse((x, y, x + 320, y + 300), fill="yellowgreen")
    for _ in range(5):
        x, y = random_.randrange(30, 470), random_.randrange(270, 340)
        draw.rectangle((x - 5, y, x + 5, y + 34), fill="saddlebrown")
        draw.polygon([(x - 30, y + 4), (x + 30, y + 4), (x, y - 64)], fill="darkgreen")
    return image


def haze() -> Image.Image:
    """Blend random colours into each other: a picture of nothing."""
    dots = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(dots).resize((320, 240), Image.Resampling.BICUBIC)


def grey_16_bit(lines: list[str]) -> Image.Image:
    """Set a page in two greys that 8 bits cannot hold."""
    is_paper = np.asarray(page(lines, size=44).convert("L")) > 127
    greys = np.where(is_paper, 0xE0F0, 0x20F0).astype("<u2")
    return Image.frombytes("I;16", (SIDE, SIDE), greys.tobytes())


def see_through(image: Image.Image) -> Image.Image:
    """Make the light background of a scene transparent."""
    lightness = np.asarray(image).min(axis=-1)
    alpha = np.where(lightness > 180, 0, 255).astype(np.uint8)
    opaque = image.convert("RGBA")
    opaque.putalpha(Image.fromarray(alpha))
    return opaque


def samples() -> dict[str, bytes]:
    """Draw everything: file name to bytes."""
    pages = {name: page(lines) for name, lines in PAGES.items()}
    pages["page-notice.png"] = page(PAGES["page-notice.png"], size=27, paper="#d8d4cc")
    receipt = page(PAGES["page-receipt.webp"], paper="beige", ink="navy").crop((0, 0, 300, 220))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side; viewers turn it by 90 degrees
    lying = pages["exif-rotated.jpg"].transpose(Image.Transpose.ROTATE_90)
    scenes = {name: held_out.scene(seed)[0] for name, seed in SCENES.items()}
    photo = _encode(scenes["scene-photo.jpg"], "JPEG", quality=80)
    chapters = [page(lines, size=34) for lines in CHAPTERS]
    return {
        "page-letter.png": _encode(pages["page-letter.png"].convert("L"), "PNG"),
        "page-list.png": _encode(pages["page-list.png"].convert("1"), "PNG"),
        "page-invoice.jpg": _encode(pages["page-invoice.jpg"], "JPEG", quality=70),
        "page-notice.png": _encode(pages["page-notice.png"].quantize(16), "PNG"),
        "page-sign.bmp": _encode(pages["page-sign.bmp"].convert("1"), "BMP"),
        "page-receipt.webp": _encode(receipt, "WEBP", quality=80),
        "exif-rotated.jpg": _encode(lying, "JPEG", quality=70, exif=turned.tobytes()),
        "grey-16-bit.png": _encode(grey_16_bit(PAGES["grey-16-bit.png"]), "PNG"),
        "scene-shapes.png": _encode(scenes["scene-shapes.png"], "PNG"),
        "scene-photo.jpg": photo,
        "scene-small.webp": _encode(_small(scenes["scene-small.webp"]), "WEBP", quality=80),
        "palette.png": _encode(scenes["palette.png"].quantize(8), "PNG"),
        "cmyk.jpg": _encode(scenes["cmyk.jpg"].convert("CMYK"), "JPEG", quality=75),
        "alpha.png": _encode(see_through(scenes["alpha.png"]), "PNG"),
        "animation.gif": _encode(
            scenes["animation.gif"].quantize(8),
            "GIF",
            save_all=True,
            append_images=[scenes["palette.png"].quantize(8)],
        ),
        "landscape.jpg": _encode(landscape(), "JPEG", quality=80),
        "haze.jpg": _encode(haze(), "JPEG", quality=80),
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


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((320, 320))
    return image


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    """Write the samples into the package."""
    SAMPLES.mkdir(exist_ok=True)
    for path in SAMPLES.iterdir():
        path.unlink()
    for name, data in samples().items():
        (SAMPLES / name).write_bytes(data)
        print(f"{name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
