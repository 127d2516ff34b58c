"""The page shows every row, loads nothing, and lets no text of a table become markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.report import html
from dsvl_pipeline.report.html import write_report
from dsvl_pipeline.report.pictures import Source
from tests.tables import write_table

HOSTILE = "<script>alert(1)</script> \"quoted\" & 'so' <img src=x onerror=alert(2)>"


def no_picture(_source: Source) -> str:
    """As if nothing could be read."""
    return "none <here>"


class Reader(HTMLParser):
    """What a browser makes of a page: its tags, its text, its pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_each_picture_stands_beside_its_answers(tmp_path: Path) -> None:
    """Inputs in order, their prompts under one picture, pages counted from 1."""
    uri, page = str(tmp_path / "table"), tmp_path / "page.html"
    write_table(
        uri,
        [
            {"row_id": "/in/b.pdf", "page_index": 1, "text": "second", "source_uris": ["b"]},
            {"row_id": "/in/b.pdf", "page_index": 0, "text": "first", "source_uris": ["b"]},
            {"row_id": "/in/a.png", "prompt_id": "see", "text": "", "source_uris": ["a"]},
            {"row_id": "/in/a.png", "prompt_id": "read", "text": "A\nB", "source_uris": ["a"]},
        ],
    )
    asked: list[tuple[str, int | None]] = []

    def red(source: Source) -> Image.Image:
        asked.append((source.uri, source.page_index))
        return Image.new("RGB", (640, 320), "red")

    assert write_report(uri, str(page), picture=red) == 4
    assert asked == [("a", None), ("b", 0), ("b", 1)]
    found = Reader(page.read_text(encoding="utf-8"))
    text = " ".join(" ".join(found.texts).split())
    sought = "a.png read ok A B see ok (an empty answer) b.pdf, page 1 read ok first b.pdf, page 2"
    assert sought in text
    assert "Rows: 4 ok , 0 degraded , 0 error ." in text
    data = re.fullmatch(r"data:image/jpeg;base64,(.+)", found.sources[0])
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as image:
        assert image.size == (320, 160)
        assert image.getpixel((9, 9)) == pytest.approx((254, 0, 0), abs=2)


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    """Answers are a model's, names and messages may be anybody's."""
    uri, page = str(tmp_path / "table"), tmp_path / "page.html"
    write_table(
        uri,
        [
            {"row_id": HOSTILE, "prompt_id": HOSTILE, "text": HOSTILE},
            {"row_id": "b", "status": "error", "error_code": "x", "error_message": HOSTILE},
        ],
    )
    write_report(uri, str(page), picture=no_picture)
    found = Reader(page.read_text(encoding="utf-8"))
    assert not found.tags & {"script", "img"}
    assert found.sources == []
    assert "".join(found.texts).count(HOSTILE) == 3  # prompt, answer, message
    assert "default-src 'none'" in page.read_text(encoding="utf-8")


def test_a_large_table_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can open a page of a million pictures."""
    uri, page = str(tmp_path / "table"), tmp_path / "page.html"
    write_table(uri, [{"row_id": f"{n}.png", "text": "x"} for n in range(5)])
    monkeypatch.setattr(html, "MOST_INPUTS", 2)
    assert write_report(uri, str(page), picture=no_picture) == 2
    text = page.read_text(encoding="utf-8")
    assert "<p>Not shown here: 3 more inputs.</p>" in text
    assert "5 ok" in text
    assert "2.png" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("page.pdf", "let its name end in .html"), ("table/page.html", "lies inside the table")],
)
def test_a_wrong_destination_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """Before anything is written."""
    uri = str(tmp_path / "table")
    write_table(uri, [{"row_id": "a", "text": "x"}])
    with pytest.raises(ConfigError, match=message):
        write_report(uri, str(tmp_path / name), picture=no_picture)
    assert not (tmp_path / name).exists()


def test_no_table_no_page(tmp_path: Path) -> None:
    """An empty page would look like an empty table."""
    with pytest.raises(NotFoundError, match="there is no table here"):
        write_report(str(tmp_path / "no"), str(tmp_path / "page.html"), picture=no_picture)
