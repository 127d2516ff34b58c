"""JSON schemas and regular expressions that an answer must satisfy; without a tokenizer.

`dsvl_pipeline.engine.schedule.structured` enforces them, token by token; jobs are checked with what
is here before anything starts. Both use llguidance, which is loaded only where a schema is to be
checked: neither the package nor a job without schemas needs it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from dsvl_pipeline.errors import GrammarError

MAX_CHARS = 100_000
"""Longest schema or regular expression; a manifest's may come from anybody."""

# Between two tokens of JSON a model may write one blank. With more, small models fill the answer
# with them (the demo checkpoint does), and every line break and indentation costs a step.
_BLANKS = {"whitespace_pattern": " "}
# Before 1.8 a pattern may come again and again; there, blanks stand around separators only. Other
# engines pin such a version, and shall find room in the same environment.
_BLANKS_BEFORE_1_8 = {
    "whitespace_flexible": False,
    "item_separator": " ?, ?",
    "key_separator": " ?: ?",
}


def normal_schema(schema: str) -> str:
    """Return a JSON schema without needless blanks. The order of its keys stays, as it matters.

    Answers hold an object's properties in the order in which the schema lists them.

    Raises:
        GrammarError: Code ``schema_invalid``: not JSON, or no object.
    """
    _check_length(schema, "the JSON schema")
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise GrammarError("schema_invalid", f"the JSON schema is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise GrammarError(
            "schema_invalid",
            f"the JSON schema is {_kind(value)}; it must be an object, such as "
            '{"type": "object", "properties": ...}',
        )
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def grammar_of(schema: str | None, regex: str | None) -> str:
    """Return a JSON schema or a regular expression as a grammar for llguidance.

    Exactly one of the two is given.

    Raises:
        GrammarError: Code ``schema_invalid``, or ``schema_unsupported`` where llguidance is
            missing.
    """
    llguidance = load_llguidance()
    if (schema is None) == (regex is None):
        raise GrammarError(
            "schema_invalid", "both a JSON schema and a regular expression are given; keep one"
        )
    if regex is not None:
        _check_length(regex, "the regular expression")
        return str(llguidance.LLMatcher.grammar_from_regex(regex))
    assert schema is not None
    blanks = _BLANKS_BEFORE_1_8 if _is_before_1_8() else _BLANKS
    grammar = llguidance.LLMatcher.grammar_from_json_schema(normal_schema(schema), blanks)
    return str(grammar)


def check(schema: str | None, regex: str | None) -> None:
    """Check that a schema or a regular expression can be enforced.

    Raises:
        GrammarError: See `grammar_of`.
    """
    grammar = grammar_of(schema, regex)
    problem = load_llguidance().LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise refused(problem, is_regex=regex is not None)


def refused(problem: str, *, is_regex: bool) -> GrammarError:
    """Return an error that says in a sentence what llguidance says in many lines."""
    if is_regex:
        # "at 1(8): invalid regex "(" (in regex): regex parse error: ..., then the place, drawn.
        _, _, details = problem.partition(" (in regex): ")
        what, lines = "the regular expression", (details or problem).splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        lines = errors or lines
    else:
        what, lines = "the JSON schema", problem.splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        lines = [*lines[: 1 if errors else None], *errors]
    text = " ".join(line.strip() for line in lines if line.strip())
    text = text if len(text) <= 300 else text[:297] + "..."
    return GrammarError("schema_invalid", f"{what} cannot be enforced: {text}")


def load_llguidance() -> Any:
    """Return the module llguidance.

    Raises:
        GrammarError: Code ``schema_unsupported``: it is not installed.
    """
    try:
        import llguidance
    except ImportError as error:
        raise GrammarError(
            "schema_unsupported",
            f"a JSON schema or regular expression needs llguidance ({error}); install it with "
            "pip install 'dsvl-pipeline[model]'",
        ) from None
    return llguidance


@cache
def _is_before_1_8() -> bool:
    return Version(version("llguidance")) < Version("1.8")


def _check_length(text: str, what: str) -> None:
    if len(text) > MAX_CHARS:
        raise GrammarError(
            "schema_invalid",
            f"{what} has {len(text):,} characters, at most {MAX_CHARS:,} are allowed; shorten it",
        )


def _kind(value: object) -> str:
    match value:
        case bool() | None:
            return json.dumps(value)
        case list():
            return "a list"
        case str():
            return "a string"
        case _:
            return "a number"
