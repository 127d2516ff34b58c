"""The JSON documents under ``_dsvl/``: damaged ones and foreign files are named to the user."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dsvl_pipeline.errors import TableError
from dsvl_pipeline.store import objects

_logger = logging.getLogger(__name__)
_MOST_SHOWN = 60
_adapters: dict[Any, TypeAdapter[Any]] = {}

T = TypeVar("T")


def load(uri: str, body: bytes, *, advice: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        uri: Where it was read, for the message.
        body: What was read.
        advice: What to do where it is damaged.

    Raises:
        TableError: It is empty, cut, or something else.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        found = f"it is no JSON ({error})" if body.strip() else f"it holds nothing ({len(body)} B)"
        raise damaged(uri, found, advice) from error
    if not isinstance(document, dict):
        raise damaged(uri, f"a {type(document).__name__} where a JSON object is needed", advice)
    return document


def as_record(kind: type[T], uri: str, document: Mapping[str, Any], *, advice: str) -> T:
    """Make a dataclass of a document; names that it does not know are passed over.

    Raises:
        TableError: A value is missing or of another type.
    """
    try:
        record: T = _adapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        found = repr(first["input"])
        if len(found) > _MOST_SHOWN:
            found = f"{found[:_MOST_SHOWN]}..."
        what = "is missing" if first["type"] == "missing" else f"is {found}: {first['msg']}"
        raise damaged(uri, f"{name!r} {what}", advice) from error
    return record


def damaged(uri: str, found: str, advice: str) -> TableError:
    """Make the error for a document that cannot be used."""
    return TableError(f"{objects.redact(uri)}: this file is damaged: {found}; {advice}")


def list_numbered(
    folder: str, *, pattern: str = r"(\d{8})\.json", start_after: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield number and URI of the documents in a folder; what has another name is passed over.

    People and their tools leave files anywhere: ``README``, ``.DS_Store``, ``Thumbs.db``.
    """
    name = re.compile(re.escape(folder + "/") + pattern)
    for info in objects.list_objects(folder, start_after=start_after):
        found = name.fullmatch(info.uri)
        if found:
            yield int(found[1]), info.uri
        else:
            warn_of_stranger(info.uri)


@lru_cache(maxsize=1024)  # once in a process is enough
def warn_of_stranger(uri: str) -> None:
    """Warn of a file that is none of the table's."""
    _logger.warning(
        "%s: this is no file of the table's and is passed over; move it away", objects.redact(uri)
    )


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
