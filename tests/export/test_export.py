"""A plain copy holds what the table holds, in an order that does not depend on the run."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.export.export import export
from dsvl_pipeline.table.reader import read_table
from tests.tables import write_table

ROWS: list[dict[str, Any]] = [
    {"row_id": "b.pdf", "page_index": 10, "text": 'tenth, "quoted"\nand 多 lines'},
    {"row_id": "b.pdf", "page_index": 2, "text": "second", "source_bytes": [7, 8]},
    {
        "row_id": "a.jpg",
        "status": "error",
        "error_code": "image_truncated",
        "error_message": "ends early",
        "produced_at": datetime(2026, 1, 2, tzinfo=UTC),
        "latency_s": float("nan"),
        "row_key": bytes(range(16)),
    },
]
CARRY = pa.schema([("tags", pa.list_(pa.string())), ("day", pa.date32())])


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Write the rows, the last one first in the order of copies."""
    uri = str(tmp_path / "table")
    write_table(uri, [{**row, "tags": ["x", "y"]} for row in ROWS], CARRY)
    return uri


def test_parquet_is_the_table_sorted(table: str, tmp_path: Path) -> None:
    """Same columns, same types, same values."""
    assert export(table, str(tmp_path / "copy.parquet")) == 3
    copy = pq.read_table(tmp_path / "copy.parquet")
    assert copy["row_id"].to_pylist() == ["a.jpg", "b.pdf", "b.pdf"]
    assert copy["page_index"].to_pylist() == [None, 2, 10]
    everything = read_table(table)
    assert copy.schema.equals(everything.schema)
    order = [2, 1, 0]  # as the rows were written
    assert repr(copy.to_pylist()) == repr(everything.take(order).to_pylist())  # NaN is not itself


def test_jsonl_and_csv_hold_the_same_values(table: str, tmp_path: Path) -> None:
    """Digests in hex, times in ISO 8601, lists as JSON; NaN, which JSON has not, as null."""
    export(table, str(tmp_path / "copy.jsonl"))
    lines = (tmp_path / "copy.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == [None, "second", ROWS[0]["text"]]
    assert rows[0]["row_key"] == "000102030405060708090a0b0c0d0e0f"
    assert rows[0]["produced_at"] == "2026-01-02T00:00:00+00:00"
    assert rows[0]["latency_s"] is None
    assert rows[1]["source_bytes"] == [7, 8]

    export(table, str(tmp_path / "copy.CSV"))
    with (tmp_path / "copy.CSV").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    for row, line in zip(rows, cells, strict=True):
        wanted = {
            name: "" if value is None else json.dumps(value) if isinstance(value, list) else value
            for name, value in row.items()
        }
        assert line == {name: str(value) for name, value in wanted.items()}


def test_markdown_is_for_people(table: str, tmp_path: Path) -> None:
    """A section per input, pages counted from 1, the reason where there is no answer."""
    export(table, str(tmp_path / "copy.md"))
    assert (tmp_path / "copy.md").read_text(encoding="utf-8") == (
        "# a.jpg\n\n## read (error)\n\n> image_truncated: ends early\n\n"
        "# b.pdf\n\n## page 3, read (ok)\n\nsecond\n\n"
        '## page 11, read (ok)\n\ntenth, "quoted"\nand 多 lines\n'
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("copy.xlsx", "the suffix says the format and is .xlsx; use one of .parquet, .jsonl, "),
        ("copy", "the suffix says the format and is missing; use one of "),
        ("table/data/copy.parquet", "this lies inside the table "),
    ],
)
def test_a_wrong_destination_is_refused(
    table: str, tmp_path: Path, name: str, message: str
) -> None:
    """A copy inside the table would be read as a part by everything that reads ``data/``."""
    with pytest.raises(ConfigError) as caught:
        export(table, str(tmp_path / name))
    assert message in str(caught.value)


def test_no_table_no_copy(tmp_path: Path) -> None:
    """An empty file would look like an empty table."""
    with pytest.raises(NotFoundError, match="there is no table here"):
        export(str(tmp_path / "nothing"), str(tmp_path / "copy.csv"))
    assert not (tmp_path / "copy.csv").exists()
