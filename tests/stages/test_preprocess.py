"""Preprocessing, one block at a time: what a request will hold."""

from __future__ import annotations

import io
import struct
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dsvl_pipeline import hub, keys
from dsvl_pipeline.processor import tiff
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.stages import rows
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.pages import list_pages
from dsvl_pipeline.stages.preprocess import preprocess
from dsvl_pipeline.stages.rows import prompt_digest_of, work_schema
from dsvl_pipeline.stages.worker_tools import worker_tools
from tests.jobs import fake_job, jpeg, parse
from tests.processor import tiffs
from tests.processor.test_picture_kinds import IMAGEJ, stack
from tests.processor.test_tiff import five
from tests.sources.test_documents import written


def drafts(pdf: Path, *, max_new_tokens: int = 300, **document: Any) -> list[list[int] | None]:
    """The drafts of a page that is asked two prompts, as they leave preprocessing."""
    job = fake_job({"documents": str(pdf), "document": document}, "out")
    job["generation"] = {"max_new_tokens": max_new_tokens}
    row = {
        "row_id": "d",
        "kind": "document",
        "sources": [str(pdf)],
        "prompt": "Transcribe the text in the image.",
        "page_index": 0,
    }
    batch = pa.Table.from_pylist([row, row], schema=work_schema(pa.schema([])))
    config = StageConfig(job=parse(job), dtype="float32", recipe="r", lineage={})
    found = preprocess(batch, config=config)
    worker_tools(config.job).renderer.close()  # a task's process keeps it
    assert found["error_code"].to_pylist() == [None, None]
    assert found["draft_ids"].type == pa.list_(pa.int32())
    ids: list[list[int] | None] = found["draft_ids"].to_pylist()
    return ids


def test_a_pages_text_is_its_draft_where_the_job_wants_it(tmp_path: Path) -> None:
    """Off unless asked for: not every question about a page wants its text."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(written("Hello page,", "two lines"))
    assert drafts(pdf) == [None, None]
    one, two = drafts(pdf, draft=True)
    assert one is not None
    assert one == two
    processor = Processor.from_pretrained(hub.resolve("demo", None))
    assert processor.decode(one) == "Hello page,\ntwo lines"


def test_a_draft_is_no_longer_than_an_answer_can_use(tmp_path: Path) -> None:
    """It travels through the object store with its row, and anybody may have written it."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(written("x" * 5000))
    one, _ = drafts(pdf, draft=True, max_new_tokens=32)
    assert one is not None
    assert len(one) == 64


def test_a_document_that_was_replaced_is_read_from_its_first_page_on(tmp_path: Path) -> None:
    """Pages that were done are not those of today; without it a shorter one would have no rows."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(written("one page"))
    job = parse(fake_job({"documents": str(pdf)}, "out"))
    row = {
        "row_id": "d",
        "kind": "document",
        "sources": [str(pdf)],
        "content_id": b"c",
        "prompt_id": "p",
        "prompt": "What?",
        "done_pages": [0],
    }
    config = StageConfig(job=job, dtype="float32", recipe="r", lineage={})
    listed = {}
    for before in (1, 3):
        batch = pa.Table.from_pylist(
            [row | {"num_pages": before}], schema=work_schema(pa.schema([]))
        )
        listed[before] = list_pages(batch, config=config)["page_index"].to_pylist()
    worker_tools(job).renderer.close()
    assert listed == {1: [], 3: [0]}


def asked_of(path: Path, *, prompts: int = 1, kind: str = "tiff", **config: Any) -> pa.Table:
    """What preprocessing makes of an image file, pages listed, under some prompts."""
    job = parse(fake_job({"images": str(path), **config}, "out"))
    rows = [
        {"row_id": "t", "kind": kind, "sources": [str(path)], "content_id": b"c", "prompt": "What?",
         "prompt_id": f"p{number}", "row_key": None if kind == "tiff" else b"k" * 16,
         "done_pages": []}
        for number in range(prompts)
    ]  # fmt: skip
    batch = pa.Table.from_pylist(rows, schema=work_schema(pa.schema([])))
    stages = StageConfig(job=job, dtype="float32", recipe="r", lineage={})
    return preprocess(list_pages(batch, config=stages), config=stages)


def test_a_tiff_has_a_row_for_each_page_and_prompt(tmp_path: Path) -> None:
    """Pages first, so that each is decoded once."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiffs.file(*five()))
    rows = asked_of(path, prompts=2)
    assert rows["page_index"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert set(rows["num_pages"].to_pylist()) == {5}
    assert set(rows["error_code"].to_pylist()) == {None}
    assert rows["is_blank"].to_pylist() == [True] * 10  # each is of one grey
    assert len(set(rows["digests"].combine_chunks().flatten().to_pylist())) == 5


def test_a_prepared_row_has_the_columns_that_are_declared(tmp_path: Path) -> None:
    """Each once, with its type; what only the engine needs is left out of the answer's row."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiffs.file(five()[0]))
    found = asked_of(path).schema
    declared = {one.name: one.type for one in (*rows.WORK, *rows.PREPARED)}
    assert set(found.names) == {*declared, *rows.PIXELS}
    assert {name: found.field(name).type for name in declared} == declared


@pytest.mark.parametrize("name", ["one.tif", "a-png.tif"])
def test_a_tiff_with_one_page_stays_a_row_without_a_page(tmp_path: Path, name: str) -> None:
    """Its key is what it was; so is that of another picture under such a name."""
    path = tmp_path / name
    body = tiffs.file(five()[0]) if name == "one.tif" else jpeg(1)
    path.write_bytes(body)
    rows = asked_of(path)
    assert rows["page_index"].to_pylist() == [None]
    assert rows["num_frames"].to_pylist() == [1]
    assert rows["is_blank"].to_pylist() == [False]  # as of every image
    digest = prompt_digest_of({"prompt": "What?", "schema": None, "regex": None})
    assert rows["row_key"].to_pylist() == [keys.row_key(b"c", None, digest, "r")]


def test_the_pages_of_a_tiff_are_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each walks the chain of directories up to it, so that all of them would walk n * n / 2."""
    counted = Counter[int]()

    def read(form: str, data: bytes, at: int) -> tuple[int, ...]:
        counted[at] += 1
        return struct.unpack_from(form, data, at)

    walked = SimpleNamespace(**vars(struct) | {"unpack_from": read})
    monkeypatch.setattr(tiff, "struct", walked)
    path = tmp_path / "a.tif"
    many = [tiffs.page(np.full((4, 6), n, np.uint8)) for n in range(12)]
    path.write_bytes(tiffs.file(*many))
    assert asked_of(path)["error_code"].to_pylist() == [None] * 12
    assert len(counted) > 12
    assert max(counted.values()) == 1


def test_a_damaged_page_of_a_tiff_is_an_error_row_alone(tmp_path: Path) -> None:
    """The others have their answers."""
    made = five()
    made[2] = (made[2][0] | {tiffs.HEIGHT: 4000, tiffs.ROWS: 4000}, made[2][1])
    path = tmp_path / "a.tif"
    path.write_bytes(tiffs.file(*made))
    rows = asked_of(path)
    codes = rows["error_code"].to_pylist()
    assert [code is None for code in codes] == [True, True, False, True, True]
    assert codes[2] in ("image_truncated", "image_unreadable")


def test_a_tiff_with_too_many_pages_is_one_error_row_for_each_prompt(tmp_path: Path) -> None:
    """Never cut silently."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiffs.file(*five()))
    rows = asked_of(path, prompts=2, document={"max_pages": 4})
    assert rows["error_code"].to_pylist() == ["image_too_many_pages"] * 2
    assert rows["is_retryable"].to_pylist() == [True] * 2


def gif() -> bytes:
    """An animation."""
    body = io.BytesIO()
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 200)]
    frames[0].save(body, "GIF", save_all=True, append_images=frames[1:])
    return body.getvalue()


@pytest.mark.parametrize(
    ("name", "frames", "code"),
    [
        ("scan.jpg", "pages", "image_frames"),
        ("scan.jpg", "first", None),
        ("scan.jpg", "error", "image_frames"),
        ("moving.gif", "pages", None),
        ("moving.gif", "error", "image_frames"),
    ],
)
def test_pictures_beside_the_one_that_is_shown_are_never_silent(
    tmp_path: Path, name: str, frames: str, code: str | None
) -> None:
    """Pages whose name does not tell of them are refused; frames of an animation are counted."""
    path = tmp_path / name
    path.write_bytes(gif() if name == "moving.gif" else tiffs.file(*five()))
    rows = asked_of(path, kind="image", frames=frames)
    assert rows["error_code"].to_pylist() == [code]
    if code is None:
        assert rows["num_frames"].to_pylist() == [2 if name == "moving.gif" else 5]
    else:
        assert "input.frames" in rows["error_message"][0].as_py()
        assert rows["is_retryable"].to_pylist() == [True]


def test_slices_that_are_no_pages_are_never_silent(tmp_path: Path) -> None:
    """ImageJ's large stacks have one directory, and a row would be about the first slice."""
    path = tmp_path / "stack.tif"
    path.write_bytes(stack({270: IMAGEJ}))
    refused = asked_of(path)
    assert refused["error_code"].to_pylist() == ["image_frames"]
    assert "holds 3 slices" in refused["error_message"][0].as_py()
    assert asked_of(path, kind="image", frames="first")["num_frames"].to_pylist() == [3]


@pytest.mark.parametrize("num_images", [200, 100_000])
def test_a_row_that_can_never_fit_is_refused_before_it_is_read(num_images: int) -> None:
    """A manifest's list of images may be of any length; a model's context is not."""
    job = parse(fake_job({"images": "x/*.jpg"}, "out"))
    row = {
        "row_id": "r",
        "kind": "image",
        "sources": ["/not/there.jpg"] * num_images,
        "prompt": "x",
    }
    batch = pa.Table.from_pylist([row], schema=work_schema(pa.schema([])))
    found = preprocess(batch, config=StageConfig(job=job, dtype="float32", recipe="r", lineage={}))
    assert found["error_code"].to_pylist() == ["prompt_too_long"]
    assert f"each of {num_images:,} images" in found["error_message"][0].as_py()
