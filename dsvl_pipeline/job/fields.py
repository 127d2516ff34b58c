"""Fields of answers that are JSON objects: the columns that a schema gives, and their values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

FieldType = Literal["string", "integer", "number", "boolean"]

_INT64 = range(-(2**63), 2**63)


def fields_of(schema: Mapping[str, Any]) -> dict[str, FieldType]:
    """Return the top-level properties of a JSON schema that have a scalar type, with that type.

    They are what becomes a column of the table. The value may also be null; lists and objects, and
    properties that may hold several kinds, are in the answer's text only. A reference to the
    schema's own definitions is followed.
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    kinds = {str(name): _kinds_of(value, schema) for name, value in properties.items()}
    return {name: kind for name, found in kinds.items() if (kind := _scalar(found)) is not None}


def merged(fields: Iterable[tuple[str, Mapping[str, FieldType]]]) -> dict[str, FieldType]:
    """Return the fields of several prompts, in their order.

    Prompts may share a field, which then is one column. It must have one type.

    Args:
        fields: Prompt ids and their fields.

    Raises:
        ValueError: Two prompts give a field different types.
    """
    types: dict[str, FieldType] = {}
    named_by: dict[str, str] = {}
    for prompt_id, of_prompt in fields:
        for name, kind in of_prompt.items():
            if types.setdefault(name, kind) != kind:
                raise ValueError(
                    f"the schema of prompt {named_by[name]!r} has {name!r} as {types[name]}, that "
                    f"of prompt {prompt_id!r} as {kind}, but both go into one column; rename one"
                )
            named_by.setdefault(name, prompt_id)
    return types


def read_fields(text: str, fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """Read the fields from an answer; a field that it leaves out is None.

    Raises:
        ValueError: The answer is not JSON, or a value does not fit its column.
    """
    try:
        answer = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not fields:
        return {}
    if not isinstance(answer, dict):
        raise ValueError(f"it is no object but {type(answer).__name__}")
    return {name: _value(name, answer.get(name), kind) for name, kind in fields.items()}


def _value(name: str, value: Any, kind: FieldType) -> Any:
    match kind, value:
        case _, None:
            return None
        case "boolean", bool():
            return value
        case "integer" | "number", bool():
            pass
        case "integer", int() if value in _INT64:
            return value
        case "number", int() | float():
            try:
                return float(value)
            except OverflowError:
                pass
        case "string", str():
            # Half a character is legal JSON ("\\ud800"), but nothing that can be stored.
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    shown = json.dumps(value)
    raise ValueError(f"{name!r} is {shown if len(shown) <= 40 else shown[:37] + '...'}, no {kind}")


def _kinds_of(value: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """Return the names of the JSON types that a schema allows; ``any`` if it does not say."""
    # Deep enough for what pydantic writes for an optional enumeration.
    if not isinstance(value, Mapping) or depth > 2:
        return {"any"}
    kinds: list[set[str]] = []
    if isinstance(reference := value.get("$ref"), str):
        kinds.append(_kinds_of(_definition(reference, root), root, depth + 1))
    if isinstance(named := value.get("type"), str):
        kinds.append({named})
    elif isinstance(named, list):
        kinds.append({str(name) for name in named})
    kinds += [
        set().union(*(_kinds_of(choice, root, depth + 1) for choice in choices))
        for key in ("anyOf", "oneOf")
        if isinstance(choices := value.get(key), list)
    ]
    if not kinds and isinstance(choices := value.get("enum"), list):
        kinds.append({_kind_of(choice) for choice in choices})
    if not kinds and "const" in value:
        kinds.append({_kind_of(value["const"])})
    return kinds[0] if len(kinds) == 1 else {"any"}


def _definition(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    start, *parts = reference.split("/")
    for part in parts if start == "#" else ["?"]:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "any"


def _scalar(kinds: set[str]) -> FieldType | None:
    kinds = kinds - {"null"}
    if kinds == {"integer", "number"}:
        return "number"
    match sorted(kinds):
        case ["string"]:
            return "string"
        case ["integer"]:
            return "integer"
        case ["number"]:
            return "number"
        case ["boolean"]:
            return "boolean"
    return None
