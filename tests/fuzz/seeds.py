"""Small good files of every kind that is read, to be damaged."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import dsvl_pipeline.demo
from tests.sources.test_documents import written

_SAMPLES = Path(dsvl_pipeline.demo.__file__).with_name("samples")
NUM_ROWS = 40
"""Of each manifest."""

PDF_WORDS = (
    b"/Count -1", b"/Count 0", b"/Count 99999999", b"/Kids [null 3 0 R]", b"/Kids []",
    b"/Parent 1 0 R", b"/MediaBox [0 0 1e9 1]", b"/MediaBox [0 0 0 0]", b"/UserUnit 1e9",
    b"/Rotate 45", b"/Encrypt 3 0 R", b"endobj", b"1 0 obj", b"<<",
    b">>", b"stream\n", b"xref", b"%%EOF", b"/Type /Pages", b"null",
)  # fmt: skip
TEXT_WORDS = (
    b'"', b'""', b"\r", b"\n", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b",", b"{",
    b"[" * 2000, b"null", b"NaN", b"1e999", b"\\ud800", b"\xe2\x80\xa8", b"true", b"}", b'{"id":',
    b"9" * 5000, b"file:///etc/passwd", b"../",
)  # fmt: skip


def pictures() -> dict[str, bytes]:
    """Each format, and the ways in which its pixels are kept."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    grey = colour.convert("L")
    files: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, **options: object) -> None:
        body = io.BytesIO()
        image.save(body, **options)  # type: ignore[arg-type]
        files[name] = body.getvalue()

    add("plain.jpg", colour, format="JPEG")
    add("progressive.jpg", colour, format="JPEG", progressive=True)
    add("cmyk.jpg", colour.convert("CMYK"), format="JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    add("turned.jpg", colour, format="JPEG", exif=exif, dpi=(200, 100))
    add("plain.png", colour, format="PNG")
    add("palette.png", colour.quantize(16), format="PNG")
    add("alpha.png", Image.merge("RGBA", (*colour.split(), grey)), format="PNG")
    add("deep.png", Image.fromarray(rng.integers(0, 65536, (40, 56), np.uint16)), format="PNG")
    add("one-bit.png", grey.convert("1"), format="PNG")
    add("plain.webp", colour, format="WEBP")
    add("plain.gif", grey, format="GIF")
    add("moving.gif", grey, format="GIF", save_all=True, append_images=[grey.rotate(90)])
    add("moving.png", colour, format="PNG", save_all=True, append_images=[colour.rotate(90)])
    add("plain.bmp", colour, format="BMP")
    add("plain.jp2", colour, format="JPEG2000")
    add("plain.ppm", colour, format="PPM")
    add("deep.pgm", Image.fromarray(rng.integers(0, 65536, (40, 56), np.uint16)), format="PPM")
    add("plain.avif", colour, format="AVIF")
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        add(f"{compression}.tif", colour, format="TIFF", compression=compression)
    add("fax.tif", grey.convert("1"), format="TIFF", compression="group4", dpi=(204, 98))
    more = [colour.rotate(90, expand=True), colour.resize((20, 30))]
    add("pages.tif", colour, format="TIFF", save_all=True, append_images=more)
    add("float.tif", Image.fromarray(rng.random((40, 56), np.float32)), format="TIFF")
    add("deep.tif", Image.fromarray(rng.integers(0, 65536, (40, 56), np.uint16)), format="TIFF")
    add("32-bit.tif", Image.fromarray(rng.integers(0, 2**31, (40, 56), np.int32)), format="TIFF")
    return files


def documents() -> dict[str, bytes]:
    """A PDF of one page, one of several with fonts and pictures, one of pictures alone."""
    files = {
        "one.pdf": written("Hello page,", "two lines"),
        "handbook.pdf": (_SAMPLES / "handbook.pdf").read_bytes(),
    }
    page = Image.new("L", (120, 160), 255)
    page.paste(0, (20, 20, 100, 30))
    body = io.BytesIO()
    page.save(body, format="PDF", save_all=True, append_images=[page.rotate(180), page])
    files["pictures.pdf"] = body.getvalue()
    return files


def manifests() -> dict[str, bytes]:
    """Each format with the same rows: ids ``row-0`` to ``row-39``, an image, a prompt, a price."""
    rows = [
        {
            "id": f"row-{n}",
            "image": f"pictures/{n}.png",
            "prompt": ("What is it?", 'Say "yes",\nor no.', "Größe – 大きさ")[n % 3],
            "price": n / 4,
        }
        for n in range(NUM_ROWS)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files = {"rows.jsonl": lines.encode(), "rows.csv": text.getvalue().encode()}
    files |= {f"{name}.gz": gzip.compress(body, mtime=0) for name, body in files.items()}
    table = pa.Table.from_pylist(rows)
    day = pa.array([n * 86_400_000_000 for n in range(NUM_ROWS)], pa.timestamp("us", tz="UTC"))
    nested = table.append_column("day", day).append_column(
        "meta", pa.array([{"tags": ["a", "b"][: n % 3], "n": n} for n in range(NUM_ROWS)])
    )
    for name, one, options in (
        ("plain.parquet", table, {"compression": "none", "use_dictionary": False}),
        ("rows.parquet", table, {"row_group_size": 16}),
        ("nested.parquet", nested, {"compression": "zstd"}),
    ):
        body = io.BytesIO()
        pq.write_table(one, body, **options)
        files[name] = body.getvalue()
    return files
