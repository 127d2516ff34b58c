"""Files that broke other people's decoders: one row each, or one for each page, always a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.verify import verify
from tests.input.corpora import OCRMYPDF, PIKEPDF, PILLOW, PYPDF, Corpus, files_of
from tests.jobs import fake_job, parse, plain_rows
from tests.payload import payload_digest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

# Every code that reading a file may end with; another one would be news to `dsvl failures`.
IMAGE_CODES = {
    "empty",
    "image_format",
    "image_too_large",
    "image_truncated",
    "image_unreadable",
}
DOCUMENT_CODES = {
    "blank_page",
    "document_encrypted",
    "document_too_long",
    "document_unreadable",
    "page_unreadable",
}


def _read_all(files: Sequence[Path], tmp_path: Path, column: str) -> list[dict[str, Any]]:
    """Put every file through a run, whatever it is called, and give the rows."""
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"id": str(p), column: str(p)}) + "\n" for p in files))
    source = {
        "manifest": str(manifest),
        "columns": {"id": "id", column: column},
        "allowed_roots": sorted({str(path.parent) for path in files}),
    }
    job = fake_job(source, str(tmp_path / "out")) | {"max_error_fraction": 1.0}
    run_job(parse(job))
    found = verify(str(tmp_path / "out"))
    assert (found.problems, found.unlogged) == ((), ())
    rows: pa.Table = read_table(str(tmp_path / "out"))
    assert payload_digest(plain_rows(tmp_path / "out")) == payload_digest(rows)
    return rows.to_pylist()  # type: ignore[no-any-return]


def _check_errors(rows: Sequence[dict[str, Any]], codes: set[str]) -> None:
    for row in rows:
        assert row["status"] in ("ok", "degraded", "error")
        if row["status"] == "error":
            assert row["error_code"] in codes, row
            assert row["error_message"], row
        if row["status"] == "ok":
            assert row["text"] is not None


def _check_documents(files: Sequence[Path], rows: Sequence[dict[str, Any]]) -> None:
    """Each document is one error row, or has each of its pages once."""
    pages: dict[str, list[int | None]] = {str(path): [] for path in files}
    num_pages = {row["row_id"]: row["num_pages"] for row in rows}
    for row in rows:
        pages[row["row_id"]].append(row["page_index"])
    for name, found in pages.items():
        if found != [None]:
            assert sorted(found, key=lambda page: page or 0) == list(range(num_pages[name])), name
    _check_errors(rows, DOCUMENT_CODES)


@pytest.mark.corpora
def test_every_file_of_pillows_tests_is_one_row(tmp_path: Path) -> None:
    """Truncated, hostile, of forty formats and of none."""
    files = files_of(PILLOW)
    rows = _read_all(files, tmp_path, "image")
    assert Counter(row["row_id"] for row in rows) == Counter(map(str, files))
    _check_errors(rows, IMAGE_CODES)
    assert sum(row["status"] == "ok" for row in rows) > 600


@pytest.mark.corpora
@pytest.mark.parametrize("corpus", [PYPDF, PIKEPDF, OCRMYPDF], ids=lambda corpus: corpus.name)
def test_every_document_is_one_row_for_each_page(corpus: Corpus, tmp_path: Path) -> None:
    """Broken, encrypted, endless, empty."""
    files = files_of(corpus)
    rows = _read_all(files, tmp_path, "document")
    _check_documents(files, rows)
    assert sum(row["status"] != "error" for row in rows) > len(files) / 2


def test_a_few_broken_documents_are_one_row_for_each_page(tmp_path: Path) -> None:
    """The same with what takes seconds: the encrypted and the smallest of pypdf's."""
    files = [path for path in files_of(PYPDF) if path.stat().st_size < 10_000]
    rows = _read_all(files, tmp_path, "document")
    _check_documents(files, rows)
    assert {row["error_code"] for row in rows} >= {"document_encrypted"}
