"""Whole runs on a real Ray with the demo checkpoint: what the engine is told about its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.run.summary import RunSummary
from dsvl_pipeline.table.reader import read_table
from tests.payload import payload_digest
from tests.sources.test_documents import written

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

SAMPLES = Path("dsvl_pipeline/demo/samples").absolute()
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["scene", "page"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_new": {"type": ["boolean", "null"]},
        "words": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["kind", "count", "is_new", "words"],
    "additionalProperties": False,
}


def run(folder: Path, prompts: list[dict[str, Any]], **sections: Any) -> RunSummary:
    """Run a job file of two pictures, as the command does."""
    job = {
        "name": "structured",
        "input": {
            "images": [str(SAMPLES / name) for name in ("page-sign.bmp", "scene-small.webp")]
        },
        "prompts": prompts,
        "model": {"checkpoint": "demo"},
        "generation": {"max_new_tokens": 100},
        "output": {"uri": str(folder / "out")},
        **sections,
    }
    (folder / "job.yaml").write_text(json.dumps(job))  # which is YAML
    return run_job(load_job(folder / "job.yaml"))


def rows_of(folder: Path, prompt_id: str) -> list[dict[str, Any]]:
    """The table's rows for a prompt."""
    rows: list[dict[str, Any]] = read_table(str(folder / "out")).to_pylist()
    return [row for row in rows if row["prompt_id"] == prompt_id]


def test_answers_satisfy_what_the_job_asks_for(tmp_path: Path) -> None:
    """From the job file to typed columns; a changed schema runs its own rows again."""
    facts = {"id": "facts", "text": "Describe the image.", "schema": SCHEMA}
    code = {"id": "code", "text": "Describe the image.", "regex": "[A-Z]{2}-[0-9]{3}"}
    read = {"id": "read", "text": "Transcribe the text in the image."}
    summary = run(tmp_path, [facts, code, read])
    assert (summary.rows_new, summary.ok) == (6, 6)
    for row in rows_of(tmp_path, "facts"):
        answer = json.loads(row["text"])
        assert list(answer) == list(SCHEMA["properties"])
        assert {name: row[name] for name in ("kind", "count", "is_new")} == {
            name: answer[name] for name in ("kind", "count", "is_new")
        }
        assert row["kind"] in ("scene", "page")
    for row in rows_of(tmp_path, "code"):
        assert len(row["text"]) == 6
        assert row["text"][2] == "-"
        assert row["kind"] is None
    schema = read_table(str(tmp_path / "out")).schema
    assert schema.field("count").type == pa.int64()
    assert "words" not in schema.names

    changed = json.loads(json.dumps(SCHEMA))
    changed["properties"]["kind"]["enum"].append("boat")
    summary = run(tmp_path, [{**facts, "schema": changed}, code, read])
    assert (summary.rows_new, summary.rows_up_to_date) == (2, 4)


def test_an_answer_without_room_for_its_end_has_no_fields(tmp_path: Path) -> None:
    """Cut by length as any other: degraded, with its text and nothing made of it."""
    facts = {"id": "facts", "text": "Describe the image.", "schema": SCHEMA}
    summary = run(tmp_path, [facts], generation={"max_new_tokens": 12})
    assert (summary.degraded, summary.rows_new) == (2, 2)
    for row in rows_of(tmp_path, "facts"):
        assert row["finish_reason"] == "length"
        assert row["text"].startswith("{")
        assert (row["kind"], row["count"]) == (None, None)


def test_a_rows_own_schema_counts_and_a_bad_one_is_its_own_fault(tmp_path: Path) -> None:
    """The manifest says for each row what its answer looks like."""
    picture = str(SAMPLES / "scene-small.webp")
    schemas = {
        "good": '{"enum": ["red", "green"]}',
        "unknown": '{"type": "objekt"}',
        "broken": "{",
        "none": "",
    }
    lines = [json.dumps({"id": n, "image": picture, "form": s}) for n, s in schemas.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    columns = {"id": "id", "image": "image", "schema": "form"}
    run(
        tmp_path,
        [{"id": "colour", "text": "Describe the image."}],
        input={
            "manifest": str(tmp_path / "m.jsonl"),
            "columns": columns,
            "allowed_roots": [str(SAMPLES)],
        },
    )
    found = {row["row_id"]: row for row in read_table(str(tmp_path / "out")).to_pylist()}
    assert json.loads(found["good"]["text"]) in ("red", "green")
    assert found["none"]["status"] == "ok"
    for name in ("unknown", "broken"):
        assert (found[name]["status"], found[name]["error_code"]) == ("error", "schema_invalid")
    assert "Invalid type: objekt" in found["unknown"]["error_message"]


def test_a_draft_changes_no_answer(tmp_path: Path) -> None:
    """Neither a right one nor a wrong one; and turning drafts on is no reason to run again."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(written("Mon to Fri", "9 to 17"))
    read = [{"id": "read", "text": "Transcribe the text in the image."}]
    found = []
    for draft in (False, True):
        folder = tmp_path / str(draft)
        folder.mkdir()
        source = {"documents": str(pdf), "document": {"draft": draft}}
        assert run(folder, read, input=source).rows_new == 1
        found.append(payload_digest(read_table(str(folder / "out"))))
    assert found[0] == found[1]
    again = {"documents": str(pdf), "document": {"draft": False}}
    assert run(tmp_path / "True", read, input=again).rows_new == 0
