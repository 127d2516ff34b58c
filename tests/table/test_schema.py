"""The output row, and digests that tell whether two runs gave the same."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.fields import FieldType
from dsvl_pipeline.table import schema
from tests.table.rows import image_rows


def test_carried_columns_stand_between_result_and_lineage() -> None:
    """A person opening the file sees answer and own columns first."""
    names = schema.output_schema(pa.schema([("sku", pa.int64())])).names
    assert names.index("num_pages") < names.index("sku") < names.index("source_uris")
    assert names[:4] == ["row_id", "row_key", "status", "text"]


def test_a_carried_column_may_not_take_one_of_our_names() -> None:
    """Found before a GPU is touched, with what to do."""
    with pytest.raises(ConfigError, match=r"input.carry names 'model', 'text', .* rename them"):
        schema.output_schema(pa.schema([("text", pa.string()), ("model", pa.string())]))


triples = st.tuples(
    st.sampled_from(["", "a", "ab", "a\x00b", "1\x001"]),
    st.sampled_from([None, 0, 1, 11]),
    st.sampled_from([None, "", "a", "b\x00a", "1"]),
)


@given(st.lists(triples, min_size=1, max_size=20))
def test_logical_keys_are_equal_only_for_equal_fields(found: list[tuple[object, ...]]) -> None:
    """Whatever ids hold; a null page, which joins never match, equals another null page."""
    rows = pa.table(
        {
            "row_id": pa.array([f[0] for f in found], pa.string()),
            "page_index": pa.array([f[1] for f in found], pa.int32()),
            "prompt_id": pa.array([f[2] for f in found], pa.string()),
        }
    )
    values = schema.logical_key(rows).to_pylist()
    assert len(set(values)) == len(set(found))
    assert pc.all(schema.is_among(rows, rows)).as_py()
    others = rows.filter(pa.array([f != found[0] for f in found]))
    assert schema.is_among(rows, others).to_pylist() == [f != found[0] for f in found]


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
    digest = schema.payload_digest(rows)
    shuffled = pa.concat_tables([rows.slice(2), rows.slice(0, 1), rows.slice(1, 1)])
    assert schema.payload_digest(shuffled) == digest
    padded = pa.concat_tables([rows, rows]).combine_chunks().slice(3)
    assert schema.payload_digest(padded) == digest
    if column.null_count < 3:
        index = rows.schema.get_field_index("carried")
        changed = rows.set_column(index, "carried", column.take(pa.array([2, 1, 0])))
        assert schema.payload_digest(changed) != digest
        emptied = rows.set_column(index, "carried", pa.nulls(3, column.type))
        assert schema.payload_digest(emptied) != digest


def test_payload_digest_passes_over_time_and_place() -> None:
    """Two runs of one plan differ in these columns, and in no others."""
    rows = image_rows({"a": "x", "b": "y"})
    digest = schema.payload_digest(rows)
    values = {"node": "n1", "latency_s": 3.5, "run_id": "other", "attempt": 2}
    for name, value in values.items():
        index = rows.schema.get_field_index(name)
        column = pa.array([value] * 2, rows.schema.field(name).type)
        rows = rows.set_column(index, rows.schema.field(name), column)
    assert schema.payload_digest(rows) == digest
    text = rows.schema.get_field_index("text")
    assert schema.payload_digest(rows.set_column(text, "text", pa.array(["x", "z"]))) != digest


def test_fields_stand_behind_the_result_with_their_types() -> None:
    """What a prompt's schema asks for can be filtered and summed without parsing the text."""
    fields: dict[str, FieldType] = {
        "colour": "string",
        "count": "integer",
        "share": "number",
        "is_round": "boolean",
    }
    found = schema.output_schema(pa.schema([("sku", pa.int64())]), fields)
    at = found.names.index("num_frames") + 1
    assert found.names[at : at + 5] == [*fields, "sku"]
    assert [str(found.field(name).type) for name in fields] == ["string", "int64", "double", "bool"]


def test_a_field_with_a_name_of_ours_is_refused() -> None:
    """Neither its values nor ours may be lost; the same for what the manifest carries."""
    with pytest.raises(ConfigError, match=r"properties 'sku', 'text', but the output has other"):
        schema.output_schema(pa.schema([("sku", pa.int64())]), {"text": "string", "sku": "string"})
