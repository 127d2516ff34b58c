"""Mistakes in a job file, as sentences for those who wrote it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ValidationError,
)

from dsvl_pipeline.job.config import JOB_NAME, JobConfig
from dsvl_pipeline.job.prompts import PROMPT_ID
from dsvl_pipeline.job.section import KeyPath
from dsvl_pipeline.job.sections import CURRENCY, IMAGE_NAME, NAMESPACE
from dsvl_pipeline.records import FakeEngineConfig

MOST_SHOWN = 200  # characters of a value in a message

_IN_WORDS = {
    CURRENCY: "use the three letters of ISO 4217, e.g. USD or EUR",
    JOB_NAME: "use lower case letters, digits and dashes (not first or last), at most 40",
    PROMPT_ID: "use letters, digits, '_', '.' and '-', at most 64",
    NAMESPACE: "use lower case letters, digits and dashes (not first or last), at most 63",
    IMAGE_NAME: "name an image by tag or digest, such as registry/dsvl-pipeline:0.1.0",
}


def explain_all(path: Path, lines: dict[KeyPath, int], error: ValidationError) -> list[str]:
    """Return a sentence for each mistake that pydantic found, in the order of the file."""
    by_place: dict[KeyPath, list[dict[str, Any]]] = {}
    for problem in error.errors():  # a union reports every alternative it tried: one mistake
        where = tuple(part for part in problem["loc"] if not _is_union_tag(part))
        by_place.setdefault(where, []).append(dict(problem))
    return [_explain(path, lines, where, problems) for where, problems in by_place.items()]


def _explain(
    path: Path, lines: dict[KeyPath, int], where: KeyPath, problems: list[dict[str, Any]]
) -> str:
    """Return ``file:line: key: what was found, what is allowed, the nearest right key``."""
    problem = problems[0]
    place = place_of(path, lines, where)
    name = ".".join(map(str, where)) or "the job"
    kind, found = problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        keys = _keys_at(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{place}: {name}: no such key; {hint}known keys: {', '.join(keys)}"
    if kind == "missing":
        return f"{place}: {name}: required, but not given"
    if found is None:
        return f"{place}: {name}: found nothing (null); give a value, or leave the key out"
    if kind in ("dataclass_type", "model_type", "model_attributes_type"):
        message = f"this is a section; set {name}.KEY, with one of {', '.join(_keys_at(where))}"
        # Who writes text there may mean the password.
        shown = "" if where[:1] == ("input",) else _found(name, found)
        return f"{place}: {name}: {shown}{message}"
    if kind == "string_pattern_mismatch":
        problems = [{"msg": _IN_WORDS[problem["ctx"]["pattern"]]}]
    elif kind == "tuple_type":
        problems = [{"msg": "Input should be a list"}]
    message = ", or ".join(map(_wanted, problems)) + _near_choice(found, problems)
    if isinstance(found, Mapping) or len(_as_text(found)) > 80:
        return f"{place}: {name}: {message}"
    return f"{place}: {name}: {_found(name, found)}{message}"


def _wanted(problem: Mapping[str, Any]) -> str:
    if problem.get("type") in ("bool_parsing", "bool_type"):
        return "Input should be true or false"
    return str(problem["msg"]).removeprefix("Value error, ")


def _near_choice(found: Any, problems: list[dict[str, Any]]) -> str:
    """Return a question after the nearest of the allowed texts, or an empty text."""
    choices = {
        choice.lower(): choice
        for problem in problems
        if problem.get("type") == "literal_error"
        for choice in re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    }
    if not isinstance(found, str):
        return ""
    near = difflib.get_close_matches(found.lower(), choices, n=1)
    return f"; did you mean {choices[near[0]]}?" if near else ""


def _found(name: str, value: Any) -> str:
    text = _as_text(value)
    return "" if is_secret(name + text) else f"found {text}: "


def is_secret(text: str) -> bool:
    """Return whether a piece of a job may hold a password, which no message repeats."""
    return "password" in text.lower()


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # YAML has keys that JSON has not
        return f"a {type(value).__name__} that cannot be shown"


def place_of(path: Path, lines: dict[KeyPath, int], where: KeyPath) -> str:
    """Return the file and line of a key, or of its section if the key is missing.

    What was not read from a file has no lines, and its name is all there is to say.
    """
    if not lines:
        return str(path)
    known = next((where[:n] for n in range(len(where), 0, -1) if where[:n] in lines), ())
    line = lines.get(known, 1)
    return f"{path}:{line}" if line else f"{path} (--set)"


def _is_union_tag(part: str | int) -> bool:
    """Return whether pydantic added this to a place, such as ``float`` or ``literal['auto']``."""
    return isinstance(part, str) and (
        part in ("int", "float", "str", "constrained-int") or part.startswith("literal[")
    )


def _keys_at(where: KeyPath) -> list[str]:
    section: Any = JobConfig
    for part in where:
        if isinstance(part, int):
            continue
        annotation = _fields(section)[part]
        choices = [annotation, *get_args(annotation)]
        section = next(c for c in choices if isinstance(c, type) and _fields(c))
    return list(_fields(section))


def _fields(section: Any) -> dict[str, Any]:
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {f.alias or name: f.annotation for name, f in section.model_fields.items()}
    if not dataclasses.is_dataclass(section):
        return {}
    special = {"fake": FakeEngineConfig}  # annotations of the plain dataclasses are strings
    return {f.name: special.get(f.name, str) for f in dataclasses.fields(section)}
