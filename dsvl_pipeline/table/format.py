"""The format of a table: what is fixed at its birth and read before anything else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsvl_pipeline import storage
from dsvl_pipeline.errors import NotFoundError, TableError
from dsvl_pipeline.table.claim import claim

LAYOUT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """What a table fixes at its birth.

    Attributes:
        table_id: Random; tells a table from another made at the same place later.
        num_shards: What `keys.shard_of` divides by.
    """

    table_id: str
    num_shards: int


def create_format(uri: str, *, num_shards: int) -> TableFormat:
    """Make a table, or read the format of the one that is there; that one's numbers hold."""
    token = uuid.uuid4().hex
    wanted = {
        "layout_version": LAYOUT_VERSION,
        "table_id": token,
        "num_shards": num_shards,
        "token": token,
    }
    return _checked_format(uri, claim(_format_uri(uri), wanted))


def read_format(uri: str) -> TableFormat:
    """Read a table's format.

    Raises:
        NotFoundError: There is no table.
        TableError: Its layout is not known to this version.
    """
    try:
        document = json.loads(storage.read(_format_uri(uri)))
    except NotFoundError as error:
        raise NotFoundError(
            f"{storage.redact(uri)}: there is no table here (no _dsvl/format.json)"
        ) from error
    return _checked_format(uri, document)


def _checked_format(uri: str, document: Mapping[str, Any]) -> TableFormat:
    if document["layout_version"] != LAYOUT_VERSION:
        raise TableError(
            f"{storage.redact(uri)}: the table has layout {document['layout_version']}, but this "
            f"version of dsvl-pipeline knows layout {LAYOUT_VERSION}; upgrade it"
        )
    return TableFormat(table_id=document["table_id"], num_shards=document["num_shards"])


def _format_uri(uri: str) -> str:
    return storage.join(uri, "_dsvl", "format.json")
