"""Read a table: what the log names, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dsvl_pipeline import storage
from dsvl_pipeline.errors import TableError
from dsvl_pipeline.table.log import Snapshot, read_snapshot, total_statuses
from dsvl_pipeline.table.part import Receipt, read_columns, read_part
from dsvl_pipeline.table.schema import KEY_COLUMNS, output_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Rows of a table by status, and by error code (degraded rows may have one as well)."""

    ok: int
    degraded: int
    errors: int
    error_codes: dict[str, int]

    @property
    def total(self) -> int:
        return self.ok + self.degraded + self.errors


def read_table(
    uri: str, *, version: int | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a table's rows into memory.

    Args:
        uri: The table.
        version: Number of a log entry; the last one if None. An earlier one can be read until
            `vacuum` removes what it alone needs (`log.list_versions` tells which can be).
        columns: Those wanted, in this order; all if None. Rows written before a column existed
            have nulls.

    Raises:
        NotFoundError: There is no table.
        TableError: A part is missing or damaged, or a column exists nowhere.
    """
    snapshot = read_snapshot(uri, version)
    try:
        return read_parts(snapshot, list(snapshot.parts.values()), columns)
    except TableError:
        # A run that ended meanwhile deletes the parts that its own commits had removed.
        if version is not None or read_snapshot(uri).version == snapshot.version:
            raise
        return read_table(uri, columns=columns)


def committed_keys(
    table: str | Snapshot, shard: int, columns: Sequence[str] = KEY_COLUMNS
) -> pa.Table:
    """Read some columns of one shard's rows, by default what a plan needs to know.

    Args:
        table: URI, or a snapshot, which saves reading the log.
        shard: Its number.
        columns: Those wanted.
    """
    snapshot = read_snapshot(table) if isinstance(table, str) else table
    return read_parts(snapshot, snapshot.in_shard(shard), columns, read_one=read_columns)


def counts(table: str | Snapshot) -> Counts:
    """Count a table's rows, from the log alone."""
    snapshot = read_snapshot(table) if isinstance(table, str) else table
    statuses = total_statuses(snapshot.parts.values())
    codes: dict[str, int] = {}
    for receipt in snapshot.parts.values():
        for code, count in receipt.error_codes.items():
            codes[code] = codes.get(code, 0) + count
    return Counts(
        ok=statuses.get("ok", 0),
        degraded=statuses.get("degraded", 0),
        errors=statuses.get("error", 0),
        error_codes=codes,
    )


def read_parts(
    snapshot: Snapshot,
    receipts: Sequence[Receipt],
    columns: Sequence[str] | None,
    *,
    read_one: Callable[[str, Receipt, Any], pa.Table] = read_part,
) -> pa.Table:
    """Read parts, many at once, into one table whose columns are the union of theirs.

    A column that was carried from inputs of different types, none of which holds the others (text
    from JSONL, later numbers from Parquet), is text.
    """
    with ThreadPoolExecutor(storage.NUM_THREADS) as threads:
        read = threads.map(lambda r: read_one(snapshot.uri, r, columns), receipts)
        tables = [table.replace_schema_metadata(None) for table in read]
    rows = join_rows(tables or [output_schema().empty_table()])
    if columns is None:
        return rows
    ours = output_schema()
    for name in columns:
        if name not in rows.column_names:
            if name not in ours.names:
                raise TableError(
                    f"{storage.redact(snapshot.uri)}: no part has a column {name!r}; "
                    f"the output's own columns are {', '.join(ours.names)}"
                )
            field = ours.field(name)
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(list(columns))


def join_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Append tables whose columns may differ, in order; the result has the union of them.

    A column of types none of which holds the others is text.
    """
    tables = _with_common_types(tables)
    # The last part was written by the newest version, so its order of columns leads.
    union = pa.unify_schemas([t.schema for t in reversed(tables)], promote_options="permissive")
    return pa.concat_tables(tables, promote_options="permissive").select(union.names)


def _with_common_types(tables: Sequence[pa.Table]) -> list[pa.Table]:
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    clashing = [name for name, found in kinds.items() if not _have_common_type(found)]
    result = []
    for table in tables:
        for name in set(clashing).intersection(table.column_names):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, _as_text(table[name]))
        result.append(table)
    return result


def _have_common_type(kinds: Iterable[pa.DataType]) -> bool:
    try:
        pa.unify_schemas([pa.schema([("it", k)]) for k in kinds], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False
    return True


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column as strings: numbers as they are written, lists and structs as JSON."""
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        texts = [
            None if value is None else json.dumps(value, default=str, ensure_ascii=False)
            for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, pa.string())])
