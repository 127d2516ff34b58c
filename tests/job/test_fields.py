"""Fields of structured answers: which become columns, and what goes into them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsvl_pipeline.job.fields import FieldType, fields_of, merged, read_fields


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer", "minimum": 3}, "integer"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": ["string", "null"]}, "string"),
        ({"type": ["integer", "number"]}, "number"),
        ({"enum": ["red", "green", None]}, "string"),
        ({"type": "string", "enum": ["red"]}, "string"),
        ({"const": True}, "boolean"),
        ({"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]}, "integer"),
        ({"$ref": "#/$defs/Size"}, "integer"),
    ],
)
def test_a_scalar_property_is_a_field(schema: dict[str, Any], kind: str) -> None:
    """Also as pydantic writes optional values and enumerations."""
    root = {"properties": {"it": schema}, "$defs": {"Size": {"enum": [1, 2]}}}
    assert fields_of(root) == {"it": kind}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object"},
        {"type": ["string", "integer"]},
        {"enum": ["a", 1]},
        {"type": "null"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.com/x"},
        {"$ref": "#/properties/it"},
        {"anyOf": [{"anyOf": [{"anyOf": [{"type": "string"}]}]}]},
        {"allOf": [{"type": "string"}]},
        {},
        True,
        "nonsense",
    ],
)
def test_anything_else_is_in_the_text_only(schema: Any) -> None:
    """A column has one type; a reference to itself must not be followed for ever."""
    assert fields_of({"properties": {"it": schema}}) == {}


@pytest.mark.parametrize("schema", [{}, {"properties": 1}, {"type": "array", "items": {}}])
def test_a_schema_without_properties_has_no_fields(schema: dict[str, Any]) -> None:
    """A list of things is no row."""
    assert fields_of(schema) == {}


def test_prompts_may_share_a_field_of_one_type() -> None:
    """Two prompts that say `language` mean one column."""
    one: dict[str, FieldType] = {"language": "string", "count": "integer"}
    two: dict[str, FieldType] = {"count": "integer", "is_scan": "boolean"}
    assert list(merged([("a", one), ("b", two)])) == ["language", "count", "is_scan"]


def test_a_field_of_two_types_is_refused() -> None:
    """One of the two would be lost, or both become text."""
    with pytest.raises(ValueError, match="rename one") as caught:
        merged([("a", {"size": "integer"}), ("b", {}), ("c", {"size": "number"})])
    assert str(caught.value) == (
        "the schema of prompt 'a' has 'size' as integer, that of prompt 'c' as number, but both "
        "go into one column; rename one"
    )


FIELDS: dict[str, FieldType] = {
    "name": "string",
    "count": "integer",
    "share": "number",
    "is_new": "boolean",
}


def test_values_are_read_with_their_types() -> None:
    """What is null or left out is null; what is no field stays in the text."""
    text = '{"name": "ä\\n", "share": 1, "is_new": false, "count": null, "more": [1]}'
    found = read_fields(text, FIELDS)
    assert found == {"name": "ä\n", "count": None, "share": 1.0, "is_new": False}
    assert type(found["share"]) is float
    assert read_fields("{}", FIELDS) == dict.fromkeys(FIELDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a"', "Expecting ',' delimiter"),
        ("", "Expecting value"),
        ("[1]", "it is no object but list"),
        ('{"count": 1.5}', "'count' is 1.5, no integer"),
        ('{"count": true}', "'count' is true, no integer"),
        ('{"share": false}', "'share' is false, no number"),
        ('{"is_new": 1}', "'is_new' is 1, no boolean"),
        ('{"name": 3}', "'name' is 3, no string"),
        ('{"count": 9223372036854775808}', "'count' is 9223372036854775808, no integer"),
        ('{"share": 1' + "0" * 400 + "}", "'share' is 1000000"),
        ('{"count": 1' + "0" * 5000 + "}", "Exceeds the limit"),
        ("[" * 100_000, "it is nested too deep"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    """An answer may be cut by a stop text, and JSON knows larger numbers than a column."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message follows)
        read_fields(text, FIELDS)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_half_a_character_can_be_stored() -> None:
    """JSON may spell one, but no file may hold it."""
    text = json.dumps({"name": "a\ud800b \U0001f600"})
    assert read_fields(text, {"name": "string"}) == {"name": "a\ufffdb \U0001f600"}
