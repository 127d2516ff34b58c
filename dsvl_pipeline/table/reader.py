"""Read a table: what the log names, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.errors import TableError
from dsvl_pipeline.job.columns import convert, holding_all
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.filters import Filters, RowFilter
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.part import Receipt, read_columns, read_part, read_with_schema
from dsvl_pipeline.table.schema import KEY_COLUMNS, output_schema
from dsvl_pipeline.table.snapshot import Snapshot, total_statuses


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
    uri: str,
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
) -> pa.Table:
    """Read a table's rows into memory.

    Args:
        uri: The table.
        version: Number of a log entry; the last one if None. An earlier one can be read until
            `vacuum` removes what it alone needs (`log.list_versions` tells which can be).
        columns: Those wanted, in this order; all if None. Rows written before a column existed
            have nulls.
        filters: Which rows: a `pyarrow.compute` expression, or tuples such as
            ``[("status", "=", "ok")]``, as `pyarrow.parquet.read_table` takes them.

    Raises:
        NotFoundError: There is no table.
        TableError: A part is missing or damaged, or a column exists nowhere.
        ValueError: The filters are neither an expression nor tuples.
    """
    snapshot = read_snapshot(uri, version)
    chosen = None if filters is None else RowFilter(filters)
    read_one = read_part if chosen is None else chosen.read
    try:
        rows = read_parts(snapshot, list(snapshot.parts.values()), columns, read_one=read_one)
    except TableError:
        # A run that ended meanwhile deletes the parts that its own commits had removed.
        if version is not None or read_snapshot(uri).version == snapshot.version:
            raise
        return read_table(uri, columns=columns, filters=filters)
    if chosen is not None:
        chosen.check(uri)
    return rows


def iter_batches(
    uri: str,
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
    batch_size: int = 4096,
) -> Iterator[pa.RecordBatch]:
    """Read a table's rows batch by batch, in the memory of one part.

    All batches have one schema. A column of several types, which `read_table` joins by its values,
    has here a type that holds any value of them.

    Args:
        uri: The table.
        version: As of `read_table`; likewise ``columns`` and ``filters``.
        columns: Without one of the job's own (carried ones, fields of a schema) the parts need not
            be asked first which columns they have.
        filters: Which rows.
        batch_size: Most rows of a batch.

    Raises:
        NotFoundError: There is no table.
        TableError: As of `read_table`. An unknown column of the filters is told after the last row.
    """
    snapshot = read_snapshot(uri, version)
    schema = _schema_of(snapshot, columns)
    chosen = None if filters is None else RowFilter(filters)
    read_one = read_part if chosen is None else chosen.read
    for receipt in snapshot.parts.values():
        rows = _in_schema(read_one(uri, receipt, schema.names or ("row_id",)), schema)
        yield from rows.to_batches(max_chunksize=batch_size)
    if chosen is not None:
        chosen.check(uri)


def _schema_of(snapshot: Snapshot, columns: Sequence[str] | None) -> pa.Schema:
    """Return one schema for some columns of all parts, or for all of their columns."""
    ours = output_schema()
    fields = {field.name: field for field in ours}
    if columns is None or not fields.keys() >= set(columns):
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            read = threads.map(
                lambda one: read_with_schema(snapshot.uri, one, ("row_id",))[1].remove_metadata(),
                snapshot.parts.values(),
            )
            schemas = list(dict.fromkeys(read)) or [ours]
        names = dict.fromkeys(name for one in reversed(schemas) for name in one.names)
        for name in names.keys() - fields.keys():
            kinds = {one.field(name).type for one in schemas if name in one.names}
            fields[name] = pa.field(name, holding_all(kinds) if len(kinds) > 1 else kinds.pop())
        columns = list(names) if columns is None else columns
    for name in columns:
        if name not in fields:
            raise _unknown_column(snapshot, name)
    return pa.schema([fields[name] for name in columns])


def _in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        convert(rows[field.name], field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


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


def committed_parts(
    snapshot: Snapshot, shard: int, columns: Sequence[str], row_id: str | None = None
) -> Iterator[tuple[str, pa.Table, pa.Schema]]:
    """Read some of our columns of one shard's rows, and which columns there are, part by part.

    Those that a part has not yet are null.

    Args:
        snapshot: Of the table.
        shard: Its number.
        columns: Those of ours.
        row_id: Of the only row to give; a shard may be large.
    """
    ours = output_schema()

    def read(receipt: Receipt) -> tuple[str, pa.Table, pa.Schema]:
        rows, schema = read_with_schema(snapshot.uri, receipt, columns)
        if row_id is not None:
            rows = rows.filter(pc.equal(rows["row_id"], row_id))
        for name in columns:
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(rows.num_rows, ours.field(name).type))
        return receipt.path, rows.replace_schema_metadata(None), schema

    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        yield from threads.map(read, snapshot.in_shard(shard))


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
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        read = threads.map(lambda r: read_one(snapshot.uri, r, columns), receipts)
        tables = [table.replace_schema_metadata(None) for table in read]
    rows = join_rows(tables or [output_schema().empty_table()])
    if columns is None:
        return rows
    if columns and not rows.num_columns:  # no part has any of them, nor would have rows
        rows = read_parts(snapshot, receipts, ("row_id",), read_one=read_one)
    ours = output_schema()
    for name in columns:
        if name not in rows.column_names:
            if name not in ours.names:
                raise _unknown_column(snapshot, name)
            field = ours.field(name)
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(list(columns))


def _unknown_column(snapshot: Snapshot, name: str) -> TableError:
    return TableError(
        f"{objects.redact(snapshot.uri)}: no part has a column {name!r}; "
        f"the output's own columns are {', '.join(output_schema().names)}"
    )


def join_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Append tables whose columns may differ, in order; the result has the union of them.

    A column of types none of which holds the others is text.
    """
    tables = _with_common_types(tables)
    # The last part was written by the newest version, so its order of columns leads.
    union = pa.unify_schemas([t.schema for t in reversed(tables)], promote_options="permissive")
    return pa.concat_tables(tables, promote_options="permissive").select(union.names)


def _with_common_types(tables: Sequence[pa.Table]) -> list[pa.Table]:
    result = list(tables)
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        columns = [table[name] for table in tables if name in table.column_names]
        if len({column.type for column in columns}) > 1:
            kind = holding_all((), columns)
            result = [_retyped(table, name, kind) for table in result]
    return result


def _retyped(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    if name not in table.column_names:
        return table
    at = table.column_names.index(name)
    return table.set_column(at, name, convert(table[name], kind))
