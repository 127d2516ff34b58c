"""The format of a table: what is fixed at its birth and read before anything else."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from dsvl_pipeline.errors import NotFoundError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.claim import claim
from dsvl_pipeline.table.document import as_record, damaged, list_numbered, load

LAYOUT_VERSION = 1
_ADVICE = (
    "restore it from a copy, or write it again: "
    '{"layout_version": 1, "table_id": "any text", "num_shards": N}, where N is the number of '
    "shards with which the table was made (more than the highest number of a directory in data/)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """What a table fixes at its birth.

    Attributes:
        num_shards: What `keys.shard_of` divides by.
    """

    num_shards: PositiveInt


def create_format(uri: str, *, num_shards: int) -> TableFormat:
    """Make a table, or read the format of the one that is there; that one's numbers hold.

    Raises:
        TableError: It is damaged, not known to this version, or missing beside a log.
    """
    if not objects.exists(_format_uri(uri)):
        for _, entry in list_numbered(objects.join(uri, "_dsvl", "log")):
            # Rows are found by their shard, so another number of shards would double them.
            raise TableError(
                f"{objects.redact(_format_uri(uri))}: this file is missing, but the table's log is "
                f"there ({objects.redact(entry)}); {_ADVICE}"
            )
    token = uuid.uuid4().hex
    wanted = {
        "layout_version": LAYOUT_VERSION,
        "table_id": token,  # which earlier versions want
        "num_shards": num_shards,
        "token": token,
    }
    return _checked_format(uri, claim(_format_uri(uri), wanted, advice=_ADVICE))


def read_format(uri: str) -> TableFormat:
    """Read a table's format.

    Raises:
        NotFoundError: There is no table.
        TableError: It is damaged, or its layout is not known to this version.
    """
    try:
        body = objects.read(_format_uri(uri))
    except NotFoundError as error:
        raise NotFoundError(
            f"{objects.redact(uri)}: there is no table here (no _dsvl/format.json)"
        ) from error
    return _checked_format(uri, load(_format_uri(uri), body, advice=_ADVICE))


def _checked_format(uri: str, document: Mapping[str, Any]) -> TableFormat:
    layout = document.get("layout_version")
    if isinstance(layout, int) and layout > LAYOUT_VERSION:
        raise TableError(
            f"{objects.redact(uri)}: the table has layout {layout}, but this "
            f"version of dsvl-pipeline knows layout {LAYOUT_VERSION}; upgrade it"
        )
    if layout != LAYOUT_VERSION:
        raise damaged(_format_uri(uri), f"'layout_version' is {layout!r}", _ADVICE)
    return as_record(TableFormat, _format_uri(uri), document, advice=_ADVICE)


def _format_uri(uri: str) -> str:
    return objects.join(uri, "_dsvl", "format.json")
