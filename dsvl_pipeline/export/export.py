"""A plain copy of a table in one file: Parquet, JSONL, CSV or Markdown.

The whole copy is made in memory. Very large tables need none: the Parquet parts under ``data/``
open as they are.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.columns import python_values
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import is_inside
from dsvl_pipeline.table.reader import read_table

_ROWS_AT_ONCE = 1000


def export(uri: str, destination: str, *, is_for_spreadsheet: bool = False) -> int:
    """Copy a table's rows, sorted by input, page and prompt, to one file.

    Args:
        uri: The table.
        destination: Path or s3:// URI; its suffix says the format. Replaced if it exists.
        is_for_spreadsheet: Whether texts of a CSV that a spreadsheet would take for a formula get
            an apostrophe before them. Their values are others then.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: The suffix is of no known format, or not of that for spreadsheets, or the
            destination lies in the table.
    """
    suffix = PurePosixPath(destination).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"export to {destination}: the suffix says the format and is {suffix or 'missing'}; "
            f"use one of {', '.join(_FORMATS)}"
        )
    if is_for_spreadsheet and suffix != ".csv":
        raise ConfigError(
            f"export to {destination}: --spreadsheet is for CSV, not for {suffix}; leave it out"
        )
    if is_inside(destination, uri):
        raise ConfigError(
            f"export to {destination}: this lies inside the table {uri}, which holds nothing but "
            "its own files; choose another place"
        )
    table = read_table(uri).sort_by([(key, "ascending") for key in _ORDER])
    copy = _csv(table, _harmless) if is_for_spreadsheet else _FORMATS[suffix](table)
    objects.put(destination, copy)
    return int(table.num_rows)


_ORDER = ("row_id", "page_index", "prompt_id")


def _parquet(table: pa.Table) -> bytes:
    body = io.BytesIO()
    pq.write_table(table, body, compression="zstd")
    return body.getvalue()


def _jsonl(table: pa.Table) -> bytes:
    lines = (_json(row) for row in _plain_rows(table))
    # JSON may hold these as they are, but to some readers (str.splitlines) they end a line.
    return "".join(f"{line.translate(_LINE_ENDS)}\n" for line in lines).encode()


_LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}


def _csv(table: pa.Table, change: Callable[[str], str] = str) -> bytes:
    """Write RFC 4180 with every text in quotes, so that an empty one is not null, which is nothing.

    Not by `csv`: before 3.13 it leaves a bare CR without quotes, and only from 3.12 on it can tell
    null from an empty text.
    """

    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, list | dict):
            value = _json(value)
        if not isinstance(value, str):
            return str(value)
        return '"' + change(value).replace('"', '""') + '"'

    lines = [",".join(map(cell, table.column_names))]
    lines += (",".join(map(cell, row.values())) for row in _plain_rows(table, is_json=False))
    return "".join(f"{line}\n" for line in lines).encode()


# What spreadsheets begin a formula with (Japanese ones with full-width signs, too), behind what
# they may strip; and the characters that some of them take for the end of a cell.
_FORMULA = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _markdown(table: pa.Table) -> bytes:
    """Write one section per input, in it one per page and prompt; for people to read."""
    wanted = [*_ORDER, "status", "text", "error_code", "error_message"]
    sections = []
    for row_id, rows in groupby(_plain_rows(table.select(wanted)), key=lambda row: row["row_id"]):
        sections.append(f"# {_one_line(row_id)}\n")
        for row in rows:
            page = "" if row["page_index"] is None else f"page {row['page_index'] + 1}, "
            sections.append(f"## {page}{_one_line(row['prompt_id'])} ({row['status']})\n")
            failure = f"> {row['error_code']}: {_one_line(row['error_message'] or '')}"
            sections.append(f"{failure if row['status'] == 'error' else row['text'] or ''}\n")
    return "\n".join(sections).encode()


def _one_line(text: str) -> str:
    """Keep a name or a message from beginning headings of its own."""
    return " ".join(text.split())


_FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".md": _markdown,
}


def _plain_rows(table: pa.Table, *, is_json: bool = True) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        columns = [_values(column, is_json=is_json) for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield dict(zip(table.column_names, row, strict=True))


def _values(column: pa.Array, *, is_json: bool) -> list[Any]:
    values = python_values(column)
    if pa.types.is_floating(column.type) and not is_json:  # infinities have a name in CSV
        return [None if value != value else value for value in values]
    return [_plain(value) for value in values]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    """Return what JSON can say: digests in hex, times in ISO 8601, NaN and infinities as null."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):  # datetime is one
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):  # a map is a list of pairs
        return [_plain(inner) for inner in value]
    return value
