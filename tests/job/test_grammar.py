"""Schemas and regular expressions: which are refused, and in what words."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import pytest

from dsvl_pipeline.errors import GrammarError
from dsvl_pipeline.job import grammar


def message_of(schema: str | None, regex: str | None = None) -> str:
    """The refusal."""
    with pytest.raises(GrammarError) as caught:
        grammar.check(schema, regex)
    assert caught.value.code == "schema_invalid"
    return str(caught.value)


def test_blanks_do_not_count_but_order_does() -> None:
    """The order of properties is the order of the answer; it belongs to the row's key."""
    one = grammar.normal_schema('{ "b": 1,\n  "a": "\\u00e4" }')
    assert one == '{"b":1,"a":"ä"}'
    assert grammar.normal_schema('{"a": "ä", "b": 1}') != one


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("{", "the JSON schema is not JSON: Expecting property name enclosed in double quotes"),
        ("[" * 100_000, "the JSON schema is not JSON: maximum recursion depth"),
        ("[1]", 'the JSON schema is a list; it must be an object, such as {"type": "object"'),
        ("true", "the JSON schema is true; it must be an object"),
        ('"x"', "the JSON schema is a string"),
        ("1", "the JSON schema is a number"),
        (
            '"' + "x" * 100_000 + '"',
            "the JSON schema has 100,002 characters, at most 100,000 are allowed; shorten it",
        ),
    ],
)
def test_what_is_no_schema_is_refused_without_llguidance(schema: str, expected: str) -> None:
    """Manifests are read on machines that do not have it."""
    with pytest.raises(GrammarError) as caught:
        grammar.normal_schema(schema)
    assert str(caught.value).startswith(expected)
    assert caught.value.code == "schema_invalid"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver has neither torch nor the rest of the extra unless somebody installs it."""
    real_import = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "llguidance":
            raise ModuleNotFoundError("No module named 'llguidance'")
        return real_import(name, *args)

    monkeypatch.delitem(sys.modules, "llguidance", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GrammarError, match=r"pip install 'dsvl-pipeline\[model\]'") as caught:
        grammar.check("{}", None)
    assert caught.value.code == "schema_unsupported"


class TestWithLibrary:
    """What only llguidance can tell."""

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("llguidance", reason="comes with the extra 'model'")

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object"},
            {"properties": {"a": {"type": ["string", "null"]}}},
            {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            {"x-guidance": {"lenient": True}, "not": {"type": "string"}},
        ],
    )
    def test_a_good_schema_passes(self, schema: dict[str, Any]) -> None:
        """The last one asks for what cannot be enforced to be ignored; that is a warning only."""
        grammar.check(json.dumps(schema), None)

    @pytest.mark.parametrize(
        ("schema", "expected"),
        [
            ({"type": "objekt"}, "the JSON schema cannot be enforced: Invalid type: objekt"),
            ({"not": {}}, 'the JSON schema cannot be enforced: Unimplemented keys: ["not"]'),
            (
                {"type": "string", "pattern": "["},
                "the JSON schema cannot be enforced: regex parse error: unclosed character class",
            ),
            ({"$ref": "#/x"}, "the JSON schema cannot be enforced: Pointer '/x' does not exist"),
            ({"type": "string", "minLength": 3, "maxLength": 2}, "the JSON schema cannot be"),
        ],
    )
    def test_a_bad_schema_is_refused(self, schema: dict[str, Any], expected: str) -> None:
        """A keyword that would be ignored is refused too: the rows would not be as promised."""
        assert message_of(json.dumps(schema)).startswith(expected)

    @pytest.mark.parametrize(
        ("regex", "expected"),
        [
            ("[", "the regular expression cannot be enforced: unclosed character class"),
            ("(?=a)b", "the regular expression cannot be enforced: look-around, including"),
            ("a\\b", "the regular expression cannot be enforced: lookarounds not supported yet"),
        ],
    )
    def test_a_bad_regular_expression_is_refused(self, regex: str, expected: str) -> None:
        """In one line, without the library's drawing of the place."""
        message = message_of(None, regex)
        assert message.startswith(expected)
        assert "\n" not in message

    def test_one_of_the_two_is_needed(self) -> None:
        """Which one should win?"""
        assert "keep one" in message_of("{}", "a")
