"""A plain copy of a table in one file: Parquet, JSONL, CSV or Markdown.

The whole copy is made in memory. Very large tables need none: the Parquet parts under ``data/``
open as they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from datetime import date
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_pipeline import storage
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.table.reader import read_table

_ROWS_AT_ONCE = 1000


def export(uri: str, destination: str) -> int:
    """Copy a table's rows, sorted by input, page and prompt, to one file.

    Args:
        uri: The table.
        destination: Path or s3:// URI; its suffix says the format. Replaced if it exists.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: The suffix is of no known format, or the destination lies in the table.
    """
    suffix = PurePosixPath(destination).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"export to {destination}: the suffix says the format and is {suffix or 'missing'}; "
            f"use one of {', '.join(_FORMATS)}"
        )
    if is_below(destination, uri):
        raise ConfigError(
            f"export to {destination}: this lies inside the table {uri}, which holds nothing but "
            "its own files; choose another place"
        )
    table = read_table(uri).sort_by([(key, "ascending") for key in _ORDER])
    storage.put(destination, _FORMATS[suffix](table))
    return int(table.num_rows)


_ORDER = ("row_id", "page_index", "prompt_id")


def _parquet(table: pa.Table) -> bytes:
    body = io.BytesIO()
    pq.write_table(table, body, compression="zstd")
    return body.getvalue()


def _jsonl(table: pa.Table) -> bytes:
    return "".join(f"{_json(row)}\n" for row in _plain_rows(table)).encode()


def _csv(table: pa.Table) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in _plain_rows(table):
        writer.writerow(
            _json(value) if isinstance(value, list | dict) else value for value in row.values()
        )
    return text.getvalue().encode()


def _markdown(table: pa.Table) -> bytes:
    """One section per input, in it one per page and prompt; for people to read."""
    wanted = [*_ORDER, "status", "text", "error_code", "error_message"]
    sections = []
    for row_id, rows in groupby(_plain_rows(table.select(wanted)), key=lambda row: row["row_id"]):
        sections.append(f"# {row_id}\n")
        for row in rows:
            page = "" if row["page_index"] is None else f"page {row['page_index'] + 1}, "
            sections.append(f"## {page}{row['prompt_id']} ({row['status']})\n")
            failure = f"> {row['error_code']}: {row['error_message']}"
            sections.append(f"{failure if row['status'] == 'error' else row['text']}\n")
    return "\n".join(sections).encode()


_FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".md": _markdown,
}


def _plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield {name: _plain(value) for name, value in row.items()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    """Give what JSON can say: digests in hex, times in ISO 8601, NaN and infinities as null."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):  # datetime is one
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def is_below(place: str, uri: str) -> bool:
    """Tell whether a place lies inside a table, whose files are its own."""
    return _absolute(place).startswith(_absolute(uri).rstrip("/") + "/")


def _absolute(uri: str) -> str:
    is_local = "://" not in uri or uri.startswith("file://")
    return os.path.realpath(uri.removeprefix("file://")) if is_local else uri
