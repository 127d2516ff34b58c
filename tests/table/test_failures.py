"""What failed, by reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dsvl_pipeline.codes import stage_of
from dsvl_pipeline.table.failures import Failure, Selection, read_failures, read_selected
from dsvl_pipeline.table.log import read_snapshot
from tests.tables import write_table

_KINDS = ("Fetch", "Image", "Document", "Prompt", "Manifest", "Grammar")
_RAISED = ("Refused", *(f"{kind}Error" for kind in _KINDS))


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Write a table with rows of five fates."""
    uri = str(tmp_path / "table")
    lost = {"status": "error", "error_code": "not_found", "is_retryable": True}
    write_table(
        uri,
        [
            {"row_id": "good", "text": "A"},
            {"row_id": "cut", "status": "degraded", "text": "C", "finish_reason": "length"},
            {"row_id": "loop", "status": "degraded", "text": "D", "error_code": "repetition"},
            {"row_id": "torn", "status": "error", "error_code": "image_truncated"},
            {"row_id": "new", "status": "error", "error_code": "of_tomorrow"},
            *({"row_id": f"lost{n}", "error_message": f"no {n}", **lost} for n in range(4)),
        ],
    )
    return uri


def test_failures_are_counted_by_stage_and_code(table: str) -> None:
    """Stage by stage, with examples and what the next run does about them."""
    found = read_failures(table, num_examples=2)
    assert [(f.stage, f.code, f.status, f.num_rows, f.is_retryable) for f in found] == [
        ("fetch", "not_found", "error", 4, True),
        ("image", "image_truncated", "error", 1, False),
        ("answer", "length", "degraded", 1, False),
        ("answer", "repetition", "degraded", 1, False),
        ("other", "of_tomorrow", "error", 1, False),
    ]
    assert [message for _, message in found[0].examples] == ["no 0", "no 1"]
    assert found[0].examples[0][0].startswith("lost0")


@pytest.mark.parametrize(
    ("selection", "row_ids"),
    [
        (Selection(codes=frozenset(["length", "of_tomorrow"])), {"cut", "new"}),
        (Selection(stages=frozenset(["image", "other"])), {"torn", "new"}),
        (Selection(stages=frozenset(["fetch"]), codes=frozenset(["image_truncated"])), set()),
        (Selection(row_ids=frozenset(["good", "lost1"])), {"good", "lost1"}),
        (Selection(row_ids=frozenset(["good", "torn"]), stages=frozenset(["image"])), {"torn"}),
    ],
)
def test_a_selection_names_rows(table: str, selection: Selection, row_ids: set[str]) -> None:
    """Kinds of conditions narrow it down together; rows named by id may be ok as well."""
    rows = read_selected(read_snapshot(table), 0, selection)
    assert set(rows["row_id"].to_pylist()) == row_ids


def test_a_table_without_failures_has_none(tmp_path: Path) -> None:
    """And its parts are not even read."""
    write_table(str(tmp_path / "t"), [{"row_id": "a", "text": "A"}])
    for path in (tmp_path / "t" / "data").rglob("*.parquet"):
        path.write_bytes(b"unread")
    found: list[Failure] = read_failures(str(tmp_path / "t"))
    assert found == []


def test_every_code_in_the_source_has_a_stage() -> None:
    """A new code must say where to look for its cause."""
    codes = set()
    for path in Path("dsvl_pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [k.value for k in node.keywords if k.arg in ("code", "error_code")]
            if name in _RAISED:
                given += node.args[:1]
            codes |= {ast.literal_eval(g) for g in given if isinstance(g, ast.Constant)}
    assert len(codes) > 30
    assert {code for code in codes if stage_of(code) == "other"} == set()
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
