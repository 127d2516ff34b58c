"""Preprocessing, one block at a time: what a request will hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from dsvl_pipeline import hub
from dsvl_pipeline.pipeline import blocks
from dsvl_pipeline.pipeline.preprocess import StageConfig, _tools, list_pages, preprocess
from dsvl_pipeline.processor.processor import Processor
from tests.pipeline.jobs import fake_job, parse
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
    batch = pa.Table.from_pylist([row, row], schema=blocks.work_schema(pa.schema([])))
    config = StageConfig(job=parse(job), dtype="float32", recipe="r", lineage={})
    found = preprocess(batch, config=config)
    _tools(config.job).renderer.close()  # a task's process keeps it
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
            [row | {"num_pages": before}], schema=blocks.work_schema(pa.schema([]))
        )
        listed[before] = list_pages(batch, config=config)["page_index"].to_pylist()
    _tools(job).renderer.close()
    assert listed == {1: [], 3: [0]}
