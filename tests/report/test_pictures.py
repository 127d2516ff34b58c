"""A report reads what the run of a row was allowed to read, as that run did, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_pipeline.report import pictures
from dsvl_pipeline.report.html import write_report
from dsvl_pipeline.report.pictures import RunPictures, Source
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.lineage import RunManifest, write_run
from tests.jobs import jpeg
from tests.processor import tiffs
from tests.processor.test_tiff import five
from tests.sources.test_passwords import encrypted
from tests.tables import write_table

Read = Callable[..., Image.Image | str]


def leave_manifest(
    table: Path, run_id: str, rows_expected: dict[int, int] | None = None, **settings: object
) -> None:
    """Write what a run of such an input leaves beside its table."""
    manifest = RunManifest(
        run_id=run_id,
        plan_id="p",
        status="done",
        started_at="2026-01-01T00:00:00+00:00",
        recipe="00",
        rows_expected=rows_expected or {},
        job={"name": "test", "input": settings},
        job_digest="00",
    )
    write_run(str(table), manifest)


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Ask for a picture that run ``r1`` read, which was allowed to read ``in``."""
    (tmp_path / "in").mkdir()
    leave_manifest(tmp_path / "out", "r1", images=[f"{tmp_path}/in/*.jpg"], max_image_bytes=5000)
    with closing(RunPictures(str(tmp_path / "out"))) as found:

        def ask(path: object, data: bytes | None, *, run_id: str | None = "r1", **page: Any) -> Any:
            sha256 = None if data is None else hashlib.sha256(data).hexdigest()
            page = {"page_index": None, **page}
            return found.read(Source(uri=str(path), sha256=sha256, run_id=run_id, **page))

        yield ask


def write(path: Path, data: bytes) -> Path:
    """Make a file."""
    path.write_bytes(data)
    return path


def test_what_the_run_read_is_shown(read: Read, tmp_path: Path) -> None:
    """A picture, by its path or URI."""
    path = write(tmp_path / "in" / "a%20[1].jpg", jpeg(1))
    for name in (path, f"file://{tmp_path}/in/a%2520%5B1%5D.jpg"):
        found = read(name, jpeg(1))
        assert isinstance(found, Image.Image)
        assert found.size == (24, 24)


def test_what_lies_outside_the_run_s_directories_is_not(read: Read, tmp_path: Path) -> None:
    """Also by a link that leads there, by dots, and where the digest is right."""
    path = write(tmp_path / "private.jpg", jpeg(1))
    (tmp_path / "in" / "link.jpg").symlink_to(path)
    for name in (path, tmp_path / "in" / "link.jpg", f"{tmp_path}/in/../private.jpg"):
        assert read(name, jpeg(1)) == "path_refused"
    assert read(__file__, Path(__file__).read_bytes()) == "path_refused"


def test_no_file_is_larger_than_the_run_s_limit(read: Read, tmp_path: Path) -> None:
    """Eight gigabytes of holes are not read to find that out."""
    path = write(tmp_path / "in" / "large.jpg", b"")
    os.truncate(path, 8 << 30)
    assert read(path, b"") == "too_large"


def test_devices_and_pipes_are_not_opened_for_long(read: Read, tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold the report for ever."""
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    assert read(tmp_path / "in" / "pipe.jpg", b"") == "not_a_file"
    (tmp_path / "in" / "zero.jpg").symlink_to("/dev/zero")
    assert read(tmp_path / "in" / "zero.jpg", b"") == "path_refused"


def test_what_the_run_did_not_read_is_not_read_now(read: Read, tmp_path: Path) -> None:
    """A row whose file was refused, missing or broken names it all the same."""
    path = write(tmp_path / "in" / "a.jpg", jpeg(1))
    assert read(path, None) == "the run read none"


def test_another_picture_is_not_shown_beside_an_old_answer(read: Read, tmp_path: Path) -> None:
    """The file has another content by now."""
    path = write(tmp_path / "in" / "a.jpg", jpeg(1))
    path.write_bytes(jpeg(2))
    assert read(path, jpeg(1)) == "the file has changed since"
    path.unlink()
    assert read(path, jpeg(1)) == "not_found"


@pytest.mark.parametrize("run_id", [None, "", "none", "../../in/forged", "/in/forged"])
def test_without_the_run_s_manifest_nothing_is_read(
    run_id: str | None, read: Read, tmp_path: Path
) -> None:
    """Nobody knows then what may be; a row's word is not the name of a file."""
    path = write(tmp_path / "in" / "a.jpg", jpeg(1))
    leave_manifest(tmp_path / "other", "forged", images=["/**"])
    manifest = objects.read(f"{tmp_path}/other/_dsvl/runs/forged.json")
    write(tmp_path / "in" / "forged.json", manifest)
    (tmp_path / "out/_dsvl/in").symlink_to(tmp_path / "in")
    assert read(path, jpeg(1), run_id=run_id) == (
        "its run left no manifest that says what may be read"
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"run_id": 1}', None],
)
def test_a_damaged_manifest_lets_nothing_be_read(
    text: str | None, read: Read, tmp_path: Path
) -> None:
    """Or one of another version, with settings that nobody here knows."""
    path = write(tmp_path / "in" / "a.jpg", jpeg(1))
    file = tmp_path / "out/_dsvl/runs/r1.json"
    document = json.loads(file.read_text())
    document["job"]["input"]["of_tomorrow"] = True
    file.write_text(json.dumps(document) if text is None else text)
    assert "manifest of its run" in str(read(path, jpeg(1)))


@pytest.mark.parametrize(
    "uri", ["s3://b/a.jpg", "https://127.0.0.1:9/a.jpg", "data:,x", "ftp://h/x"]
)
def test_nothing_is_fetched(uri: str, read: Read) -> None:
    """A page is made on somebody's laptop, with other rights than the run's."""
    assert read(uri, jpeg(1)) == "only local files are read again"


def test_a_page_is_rendered_within_the_run_s_limits(tmp_path: Path) -> None:
    """Its number of pages, for one; each run has its own."""
    data = two_pages()
    path = write(tmp_path / "a.pdf", data)
    for run_id, most in (("wide", 2), ("narrow", 1)):
        document = {"max_pages": most}
        leave_manifest(tmp_path / "out", run_id, documents=[str(path)], document=document)
    source = {"uri": str(path), "sha256": hashlib.sha256(data).hexdigest(), "page_index": 1}
    with closing(RunPictures(str(tmp_path / "out"))) as found:
        page = found.read(Source(**source, run_id="wide"))
        assert isinstance(page, Image.Image)
        assert page.size == (100, 50)
        assert found.read(Source(**source, run_id="narrow")) == "document_too_long"


def test_a_locked_document_is_read_by_the_variable_that_its_job_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest has its name; what stands there in the place of a password is none."""
    hidden = "*" * 10
    for word, password, values, told in (
        ("abc", {"env": "PDF_WORD"}, (None, "wrong"), "password of its run; set PDF_WORD here"),
        (
            hidden,
            hidden,
            (None, "abc"),
            "which is kept nowhere; a job that names it as {env: NAME}",
        ),
        ("abc", None, (None, "abc"), "it needs a password, and its run had none"),
        ("abc", {"env": "PDF_WORD"}, ("abc",), None),
    ):
        path = write(tmp_path / "a.pdf", encrypted(word))
        settings: dict[str, Any] = {"documents": [str(path)], "document": {"password": password}}
        leave_manifest(tmp_path / "out", "r1", **settings)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        for value in values:
            monkeypatch.delenv("PDF_WORD", raising=False)
            if value is not None:
                monkeypatch.setenv("PDF_WORD", value)
            with closing(RunPictures(str(tmp_path / "out"))) as pages:
                shown = pages.read(Source(uri=str(path), sha256=sha256, page_index=1, run_id="r1"))
            if told is None:
                assert isinstance(shown, Image.Image)
                assert shown.size == (200, 100)
            else:
                assert told in str(shown)


def two_pages() -> bytes:
    """A PDF of two pages of 100 x 50 points."""
    body, page = io.BytesIO(), Image.new("RGB", (100, 50), "white")
    page.save(body, "PDF", resolution=72, save_all=True, append_images=[page])
    return body.getvalue()


def test_readers_of_few_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may hold rows of thousands of runs."""
    monkeypatch.setattr(pictures, "_MOST_RUNS", 2)
    path = write(tmp_path / "a.jpg", jpeg(1))
    digest = hashlib.sha256(jpeg(1)).hexdigest()
    with closing(RunPictures(str(tmp_path / "out"))) as found:
        for run_id in ("r1", "r2", "r3", "r1"):
            leave_manifest(tmp_path / "out", run_id, images=[str(path)])
            source = Source(uri=str(path), sha256=digest, page_index=None, run_id=run_id)
            assert isinstance(found.read(source), Image.Image)
        assert len(found._readers) == 2


def test_an_id_is_not_taken_for_a_path(tmp_path: Path) -> None:
    """Ids are a manifest's, and the page may go to others."""
    uri = str(tmp_path / "table")
    secret = write(tmp_path / "private.jpg", jpeg(1))
    rows = [
        {"row_id": str(secret), "text": "x", "run_id": "r1"},
        {"row_id": "b", "text": "x", "source_uris": [str(secret)], "run_id": "r1"},
    ]
    write_table(uri, rows)
    leave_manifest(tmp_path / "table", "r1", images=[str(tmp_path)])
    asked: list[Source] = []

    def picture(source: Source) -> str:
        asked.append(source)
        return "<none>"

    write_report(uri, str(tmp_path / "page.html"), picture=picture)
    assert [source.uri for source in asked] == [str(secret)]
    page = (tmp_path / "page.html").read_text()
    assert page.count('<p class="none">no picture</p>') == 1
    assert page.count('<p class="none">no picture: &lt;none&gt;</p>') == 1
    assert "<img" not in page


def test_a_page_of_a_tiff_is_shown_beside_its_answers(tmp_path: Path) -> None:
    """By what the file holds: no renderer of PDFs is asked."""
    (tmp_path / "in").mkdir()
    data = tiffs.file(*five())
    path = write(tmp_path / "in" / "a.tif", data)
    leave_manifest(tmp_path / "out", "r1", images=[f"{tmp_path}/in/*.tif"])
    sha256 = hashlib.sha256(data).hexdigest()
    with closing(RunPictures(str(tmp_path / "out"))) as found:
        for page, grey in ((0, 10), (3, 130)):
            shown = found.read(Source(uri=str(path), sha256=sha256, run_id="r1", page_index=page))
            assert isinstance(shown, Image.Image)
            assert shown.getpixel((0, 0)) == (grey, grey, grey)
