"""The digest by which tests compare tables."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.payload import payload_digest
from tests.table.rows import image_rows


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 3]),
        pa.array([1.5, None, 3.0]),
        pa.array([True, None, False]),
        pa.array(["x", None, ""]),
        pa.array(["x", None, "y"]).dictionary_encode(),
        pa.array([b"12", None, b"34"], pa.binary(2)),
        pa.array([[1, 2], None, []]),
        pa.array([["x", None], None, []]),
        pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": ""}]),
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        pa.array([1, None, 2], pa.decimal128(5, 2)),
        pa.array([None, None, None]),
    ],
    ids=lambda column: str(column.type),
)
def test_payload_digest_depends_on_values_alone(column: pa.Array) -> None:
    """Order, chunks, offsets and what lies under nulls do not count; each value does."""
    rows = image_rows({"a": "1", "b": "2", "c": "3"}).append_column("carried", column)
    digest = payload_digest(rows)
    shuffled = pa.concat_tables([rows.slice(2), rows.slice(0, 1), rows.slice(1, 1)])
    assert payload_digest(shuffled) == digest
    padded = pa.concat_tables([rows, rows]).combine_chunks().slice(3)
    assert payload_digest(padded) == digest
    if column.null_count < 3:
        index = rows.schema.get_field_index("carried")
        changed = rows.set_column(index, "carried", column.take(pa.array([2, 1, 0])))
        assert payload_digest(changed) != digest
        emptied = rows.set_column(index, "carried", pa.nulls(3, column.type))
        assert payload_digest(emptied) != digest


def test_payload_digest_passes_over_time_and_place() -> None:
    """Two runs of one plan differ in these columns, and in no others."""
    rows = image_rows({"a": "x", "b": "y"})
    digest = payload_digest(rows)
    values = {"node": "n1", "latency_s": 3.5, "run_id": "other", "attempt": 2}
    for name, value in values.items():
        index = rows.schema.get_field_index(name)
        column = pa.array([value] * 2, rows.schema.field(name).type)
        rows = rows.set_column(index, rows.schema.field(name), column)
    assert payload_digest(rows) == digest
    text = rows.schema.get_field_index("text")
    assert payload_digest(rows.set_column(text, "text", pa.array(["x", "z"]))) != digest
