"""Readers: the log decides, columns may come and go, a part that left is looked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dsvl_pipeline.errors import NotFoundError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import reader
from dsvl_pipeline.table.reader import committed_keys, counts, iter_batches, read_table
from dsvl_pipeline.table.schema import KEY_COLUMNS, output_schema
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.vacuum import vacuum
from tests.table.rows import SCHEMA, image_rows, keys_of, open_table, page_rows, write


def test_an_empty_table_has_the_output_columns(table_uri: str) -> None:
    """Who plots a table that has just been opened gets no traceback."""
    with pytest.raises(NotFoundError):
        read_table(table_uri)
    open_table(table_uri).close()
    assert read_table(table_uri).schema == output_schema()
    assert committed_keys(table_uri, 0).column_names == list(KEY_COLUMNS)
    assert counts(table_uri).total == 0


def test_parts_of_several_versions_are_one_table(table_uri: str) -> None:
    """A column that came or went, or grew wider, breaks no reader; the newest order leads."""
    old = image_rows({"a": "1"}).drop_columns(["node", "category"])
    index = old.schema.get_field_index("attempt")
    old = old.set_column(index, "attempt", pa.array([1], pa.int8()))
    new = image_rows({"b": "2"}).append_column("language", pa.array(["en"]))
    with open_table(table_uri) as writer:
        writer.commit([write(writer, old)])
        writer.commit([write(writer, new)])
    rows = read_table(table_uri)
    assert rows.column_names == [*SCHEMA.names, "language"]
    assert rows["language"].to_pylist() == [None, "en"]
    assert rows["category"].to_pylist() == [None, "shoes"]
    assert rows["attempt"].to_pylist() == [1, None]
    assert rows.schema.field("attempt").type == pa.int32()


def test_a_column_carried_as_other_types_is_read_as_text(table_uri: str) -> None:
    """First from JSONL, then from Parquet: a table that holds answers must stay readable."""
    carried = [
        pa.array(["shoes"]),
        pa.array([7]),
        pa.array([None], pa.float64()),
        pa.array([["a", "é"]]),
        pa.array([b"\xff"]),
        pa.array([True]),
    ]
    with open_table(table_uri) as writer:
        for number, values in enumerate(carried):
            rows = image_rows({f"{number}": "x"})
            rows = rows.set_column(rows.schema.get_field_index("category"), "category", values)
            writer.commit([write(writer, rows)])
    rows = read_table(table_uri)
    assert rows["category"].to_pylist() == [
        "shoes", "7", None, '["a", "é"]', "ff", "true",
    ]  # fmt: skip
    assert rows.column_names == SCHEMA.names
    assert committed_keys(table_uri, 0, ["row_id", "category"])["category"].type == pa.string()


def test_columns_are_read_in_the_order_asked(table_uri: str) -> None:
    """One of ours that no part has yet is null; one that is nobody's is a mistake."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}).drop_columns(["device"]))])
    rows = read_table(table_uri, columns=["text", "device", "row_id"])
    assert rows.to_pylist() == [{"text": "1", "device": None, "row_id": "a"}]
    with pytest.raises(TableError, match="no part has a column 'txet'"):
        read_table(table_uri, columns=["txet"])


def test_committed_keys_are_those_of_one_shard(table_uri: str) -> None:
    """A plan holds one shard in memory at a time."""
    with open_table(table_uri, num_shards=2) as writer:
        receipts = [
            write(writer, image_rows({"a": "1"}, status="error"), shard=0),
            write(writer, page_rows("doc", [0, 1], 2, "p"), shard=1),
        ]
        writer.commit(receipts)
    first, second = (committed_keys(table_uri, shard) for shard in (0, 1))
    assert first.equals(image_rows({"a": "1"}, status="error").select(KEY_COLUMNS))
    assert second["num_pages"].to_pylist() == [2, 2]
    assert committed_keys(writer.snapshot, 1, columns=["row_id"]).num_rows == 2


def test_counts_come_from_the_log_alone(table_uri: str) -> None:
    """`dsvl status` must not read 10^9 rows."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1", "b": "1"}))])
        writer.commit([write(writer, image_rows({"c": "", "d": ""}, status="error"))])
    objects.delete([i.uri for i in objects.list_objects(objects.join(table_uri, "data"))])
    found = counts(table_uri)
    assert (found.ok, found.degraded, found.errors, found.total) == (2, 0, 2, 4)
    assert found.error_codes == {"boom": 2}


def test_a_table_is_read_again_when_a_run_ends_meanwhile(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it replaced stays for readers that began before, until a vacuum removes it."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        early = writer.snapshot
        writer.finish()
    with open_table(table_uri) as writer:
        new = image_rows({"a": "2"})
        writer.commit([write(writer, new)], superseded=keys_of(new))
        writer.finish()
    real = reader.read_snapshot
    answers: list[Snapshot] = [early]

    def read_once_early(uri: str, version: int | None = None) -> Snapshot:
        return answers.pop() if answers else real(uri, version)

    monkeypatch.setattr(reader, "read_snapshot", read_once_early)
    assert read_table(table_uri)["text"].to_pylist() == ["1"]
    vacuum(table_uri, grace_s=-60)
    answers = [early]
    assert read_table(table_uri)["text"].to_pylist() == ["2"]
    with pytest.raises(TableError, match="in the log but not on the store"):
        read_table(table_uri, version=early.version)


@pytest.fixture
def parted(tmp_path: Path) -> str:
    """A part of three rows without the column language, and one of two rows with it."""
    uri = str(tmp_path / "parted")
    old = image_rows({"a": "1", "b": "2", "c": "3"}).drop_columns(["node"])
    new = image_rows({"d": "4", "e": "5"}).append_column("language", pa.array(["en", "de"]))
    with open_table(uri) as writer:
        writer.commit([write(writer, old)])
        writer.commit([write(writer, new)])
    return uri


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([("row_id", "in", ["b", "d"])], ["b", "d"]),
        ([[("row_id", "=", "a")], [("language", "=", "de")]], ["a", "e"]),
        (pc.field("language") == "en", ["d"]),
        (pc.field("language").is_null(), ["a", "b", "c"]),
        ((pc.field("row_id") > "b") & (pc.field("status") == "ok"), ["c", "d", "e"]),
        ([("row_id", "=", "nobody")], []),
    ],
    ids=str,
)
def test_filters_choose_rows_whatever_columns_are_read(
    parted: str, filters: Any, expected: list[str]
) -> None:
    """Of parts with and without the column, into memory or batch by batch."""
    whole = read_table(parted, filters=filters)
    assert whole["row_id"].to_pylist() == expected
    assert whole.num_columns == read_table(parted).num_columns
    text = read_table(parted, filters=filters, columns=["text"])
    assert text.column_names == ["text"]
    assert text["text"] == whole["text"]
    batches = list(iter_batches(parted, filters=filters, columns=["row_id"], batch_size=1))
    assert [one["row_id"][0].as_py() for one in batches] == expected


def test_batches_are_the_table(parted: str) -> None:
    """With one schema, and none larger than asked for."""
    batches = list(iter_batches(parted, batch_size=2))
    assert [one.num_rows for one in batches] == [2, 1, 2]
    assert pa.Table.from_batches(batches) == read_table(parted)
    wanted = ["language", "row_id"]
    some = pa.Table.from_batches(iter_batches(parted, columns=wanted))
    assert some == read_table(parted, columns=wanted)


def test_batches_of_an_empty_table_are_none(tmp_path: Path) -> None:
    """And where there is no table, that is told."""
    table_uri = str(tmp_path / "table")
    with pytest.raises(NotFoundError):
        next(iter_batches(table_uri))
    open_table(table_uri).close()
    assert list(iter_batches(table_uri)) == []


def test_batches_of_several_types_are_text(tmp_path: Path) -> None:
    """One schema, whatever comes later."""
    table_uri = str(tmp_path / "table")
    with open_table(table_uri) as writer:
        for number, values in enumerate((pa.array([7]), pa.array(["x"]))):
            rows = image_rows({f"{number}": "x"})
            at = rows.schema.get_field_index("category")
            writer.commit([write(writer, rows.set_column(at, "category", values))])
    found = pa.Table.from_batches(iter_batches(table_uri, columns=["category"]))
    assert found["category"].to_pylist() == ["7", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["nope"]}, "no part has a column 'nope'"),
        ({"filters": [("nope", "=", 1)]}, "no part has the column 'nope' of the filter"),
        ({"filters": [("text", ">", 1)]}, "the filter does not fit data/"),
    ],
)
def test_a_column_that_is_nowhere_is_told(
    parted: str, arguments: dict[str, Any], message: str
) -> None:
    """Not taken for one that is null everywhere."""
    with pytest.raises(TableError, match=message):
        read_table(parted, **arguments)
    with pytest.raises(TableError, match=message):
        list(iter_batches(parted, **arguments))


def test_filters_of_another_form_are_refused(parted: str) -> None:
    """With what is taken."""
    with pytest.raises(ValueError, match=r"give a pyarrow\.compute expression, or tuples"):
        read_table(parted, filters=[("text", "=")])
