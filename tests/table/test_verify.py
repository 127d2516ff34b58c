"""Verification: a good table passes, and each kind of damage is named with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from dsvl_pipeline.errors import NotFoundError
from dsvl_pipeline.table import lineage
from dsvl_pipeline.table.lineage import RunManifest
from dsvl_pipeline.table.verify import verify
from dsvl_pipeline.table.writer import TableWriter
from tests.table.rows import image_rows, open_table, page_rows, write

RUN = RunManifest(
    run_id="run",
    plan_id="plan",
    status="done",
    started_at="2026-01-01T00:00:00+00:00",
    recipe="recipe",
    job_digest="0",
)


def _problems(uri: str) -> list[str]:
    return [str(problem) for problem in verify(uri).problems]


def _commit(uri: str, *tables: pa.Table) -> TableWriter:
    with open_table(uri) as writer:
        for table in tables:
            writer.commit([write(writer, table)])
    return writer


def test_a_good_table_has_no_problems(table_uri: str) -> None:
    """Images and documents, a document that could not be opened among them."""
    broken = page_rows("broken.pdf", [0], 1, "")
    for name in ("page_index", "num_pages"):
        column = broken.schema.get_field_index(name)
        broken = broken.set_column(column, name, pa.nulls(1, pa.int32()))
    _commit(table_uri, image_rows({"a": "1"}), page_rows("a.pdf", [1, 0], 2, "p"), broken)
    lineage.write_run(table_uri, replace(RUN, rows_expected={0: 4}, prompt_ids=("p",)))
    found = verify(table_uri)
    assert found.problems == ()
    assert found.unlogged == ()
    assert (found.version, found.num_parts, found.num_rows, found.num_expected) == (4, 3, 4, 4)
    assert found.last_run == "done"


def test_a_table_that_is_not_there_cannot_be_good(table_uri: str) -> None:
    """An empty answer would be read as "no problems"."""
    with pytest.raises(NotFoundError):
        verify(table_uri)


def test_damaged_and_missing_parts_are_named(tmp_path: Path) -> None:
    """Each by its path."""
    writer = _commit(str(tmp_path), image_rows({"a": "1"}), image_rows({"b": "1"}))
    first, second = writer.snapshot.parts
    body = bytearray((tmp_path / first).read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / first).write_bytes(body)
    (tmp_path / second).unlink()
    damaged, missing = _problems(str(tmp_path))
    assert damaged.startswith(first)
    assert "sha256" in damaged
    assert missing.startswith(second)
    assert "not on the store" in missing


def test_a_receipt_that_does_not_fit_is_noticed(tmp_path: Path) -> None:
    """Counts are answered from receipts, so they must be true."""
    with open_table(str(tmp_path)) as writer:
        receipt = write(writer, image_rows({"a": "1"}))
        wrong = replace(receipt, num_rows=2, statuses={"error": 1}, keys_digest="0")
        writer.commit([wrong])
    texts = _problems(str(tmp_path))
    assert [text.split(": ")[1] for text in texts] == [
        "rows",
        "rows by status",
        "digest of the keys",
    ]
    assert "{'ok': 1}, but the log says {'error': 1}" in texts[1]


def test_doubled_rows_are_named(table_uri: str) -> None:
    """The one thing that must never happen."""
    _commit(table_uri, image_rows({"a": "1", "b": "1"}), image_rows({"b": "2", "c": "1"}))
    (text,) = _problems(table_uri)
    assert "1 logical key in more than one row, first (b, page None, prompt cap" in text


def test_missing_pages_are_named(table_uri: str) -> None:
    """A document counts as done only with all its pages."""
    _commit(
        table_uri,
        page_rows("a.pdf", [0, 1, 3], 4, "p"),
        page_rows("b.pdf", [0], 1, "p"),
        page_rows("c.pdf", [0], 2, "p"),
        page_rows("c.pdf", [1], 3, "p"),
    )
    lineage.write_run(table_uri, RUN)
    incomplete, unsure = sorted(_problems(table_uri))
    assert incomplete == "document a.pdf, prompt p: has 3 of 4 pages; missing by index: 2"
    assert unsure == "document c.pdf, prompt p: some rows say that it has 2 pages, others 3"


def test_pages_of_unknown_number_are_named(table_uri: str) -> None:
    """Only a table that somebody else wrote to has them, and it is what is looked for."""
    pages = page_rows("a.pdf", [0, 1], 2, "p")
    at = pages.schema.get_field_index("num_pages")
    _commit(table_uri, pages.set_column(at, "num_pages", pa.nulls(2, pa.int32())))
    lineage.write_run(table_uri, replace(RUN, rows_expected={0: 2}, prompt_ids=("p",)))
    (problem,) = _problems(table_uri)
    assert problem == "document a.pdf, prompt p: its rows do not say how many pages it has"


def test_a_stopped_run_is_no_damage(table_uri: str) -> None:
    """Pages that the next run is to answer are not missing yet."""
    _commit(table_uri, page_rows("a.pdf", [0], 9, "p"))
    lineage.write_run(table_uri, replace(RUN, status="stopped", prompt_ids=("p",)))
    assert _problems(table_uri) == []


def test_a_document_that_vanished_was_asked_all_the_same(table_uri: str) -> None:
    """Its error row stands for the pages of that prompt; those of other prompts stay."""
    gone = page_rows("a.pdf", [0], 1, "q")
    for name in ("page_index", "num_pages"):
        column = gone.schema.get_field_index(name)
        gone = gone.set_column(column, name, pa.nulls(1, pa.int32()))
    _commit(table_uri, page_rows("a.pdf", [0, 1], 2, "p"), gone)
    lineage.write_run(table_uri, replace(RUN, prompt_ids=("p", "q")))
    assert _problems(table_uri) == []


def test_rows_in_are_rows_out(table_uri: str) -> None:
    """The last run's manifest says what must be there; a run that has not ended says nothing."""
    _commit(table_uri, image_rows({"a": "1"}), page_rows("a.pdf", [0], 1, "p"))
    manifest = replace(RUN, rows_expected={0: 3}, prompt_ids=("p", "q"))
    lineage.write_run(table_uri, replace(manifest, status="stopped"))
    assert _problems(table_uri) == []
    lineage.write_run(table_uri, manifest)
    assert _problems(table_uri) == [
        "document a.pdf: was not asked the prompts ['q']",
        "shard 0: has 2 rows, but its last run wanted 3",
    ]


def test_rows_in_the_wrong_shard_are_named(table_uri: str) -> None:
    """A plan would not find them there, and would ask them again."""
    with open_table(table_uri, num_shards=50) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}), shard=3)])
    assert _problems(table_uri) == ["shard 3: 1 row id of another shard, first ['a']"]
