"""The output row, and the keys that tell rows apart."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.fields import FieldType
from dsvl_pipeline.table import schema
from dsvl_pipeline.table.columns import COLUMNS, PLACES


def test_names_and_types_are_those_of_every_table_so_far() -> None:
    """Old tables are read, and old versions read new ones; a new column changes this digest."""
    found = schema.output_schema()
    assert found.metadata is None
    lines = [f"{field.name} {field.type} {field.nullable}" for field in found]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest.startswith("5e46cac188592ea5")


def test_every_column_says_what_it_means_and_who_fills_it() -> None:
    """One sentence; names are unique, and places are those that are listed."""
    assert len({one.name for one in COLUMNS}) == len(COLUMNS)
    for one in COLUMNS:
        assert one.meaning.endswith("."), one.name
        assert one.filled, one.name
        assert set(one.filled) <= PLACES.keys(), one.name


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
