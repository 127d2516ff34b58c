"""Rows of a part in the table's schema, some with other carried values than they had."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.job.columns import convert
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.stages.rows import CARRY
from dsvl_pipeline.table.schema import OUR_COLUMNS

POSITION, LEAVES = "position", "leaves"


def rewritten(
    path: str, rows: pa.Table, values: pa.Table | None, schema: pa.Schema, job: JobConfig
) -> list[pa.Table]:
    """Return a part's rows in the table's schema, some of them with other carried values.

    Rows that are about to leave come apart from them, as they stand: their values need not fit, and
    are still wanted if the run does not come to its end.

    Args:
        path: Of the part.
        rows: All of it.
        values: Those of `Found.values` that are the part's.
        schema: From `table_schema`.
        job: Says which columns are answers; what neither these are nor is carried is emptied where
            there are values.

    Raises:
        RunStoppedError: A value does not fit.
    """
    if values is None:
        values = values_of(np.empty(0, np.int64), {}, np.empty(0, np.int64), pa.schema([]))
    positions, leaves = values[POSITION].to_numpy(), values[LEAVES].to_numpy()
    stays = np.ones(rows.num_rows, bool)
    stays[positions[leaves]] = False
    is_old = stays.copy()
    is_old[positions] = False
    kept, old = rows.filter(pa.array(stays)), rows.filter(pa.array(is_old))
    new = values.filter(pa.array(~leaves))
    order = np.empty(rows.num_rows, np.int64)
    order[is_old] = np.arange(old.num_rows)
    order[positions[~leaves]] = old.num_rows + np.arange(new.num_rows)
    columns = []
    for field in schema:
        try:
            if field.name in OUR_COLUMNS or field.name in job.fields:
                columns.append(convert(column_of(kept, field.name), field.type))
                continue
            # Nulls for what is carried no more.
            both = [column_of(old, field.name), column_of(new, CARRY + field.name)]
            both = [convert(column, field.type) for column in both]
        except pa.ArrowInvalid as error:
            raise _unfit(path, rows, field, error) from error
        columns.append(pa.concat_arrays(both).take(pa.array(order[stays])))
    leaving = rows.filter(pa.array(~stays))
    return [pa.table(columns, schema=schema), *([leaving] if leaving.num_rows else [])]


def _unfit(path: str, rows: pa.Table, field: pa.Field, error: Exception) -> RunStoppedError:
    return RunStoppedError(
        f"{path}: its column {field.name!r} is {column_of(rows, field.name).type}, and "
        f"not all of its values can be {field.type}, as the job has them now: {error}; "
        "give the column another name"
    )


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return new rows in the table's schema."""
    if rows.schema.equals(schema):
        return rows
    columns = [convert(column_of(rows, field.name), field.type) for field in schema]
    return pa.table(columns, schema=schema)


def values_of(
    positions: NDArray[np.int64],
    now: Mapping[str, pa.Array],
    leaving: NDArray[np.int64],
    carry: pa.Schema,
) -> pa.Table:
    """Return what some rows of a part carry from now on, and which of its rows leave the table."""
    leaves = np.repeat([False, True], [len(positions), len(leaving)])
    columns = {POSITION: np.concatenate([positions, leaving]), LEAVES: leaves}
    table = pa.table(columns)
    for field in carry:
        both = [now[field.name], pa.nulls(len(leaving), field.type)]
        table = table.append_column(CARRY + field.name, pa.chunked_array(both, field.type))
    return table


def take_rows(column: pa.ChunkedArray, places: NDArray[np.int64]) -> pa.Array:
    """Return values of a column that may be too large for one array."""
    starts = np.cumsum([0, *map(len, column.chunks)])
    chunk_of = np.searchsorted(starts, places, side="right") - 1
    taken, order = [], []
    for chunk in np.unique(chunk_of):
        here = np.flatnonzero(chunk_of == chunk)
        taken.append(column.chunk(chunk).take(pa.array(places[here] - starts[chunk])))
        order.append(here)
    if not taken:
        return pa.nulls(0, column.type)
    back = np.argsort(np.concatenate(order), kind="stable")
    return pa.concat_arrays(taken).take(pa.array(back))


def column_of(rows: pa.Table, name: str, num_rows: int | None = None) -> pa.Array:
    """Return a column; nulls where there is none, as many as there are rows if nothing is said."""
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows if num_rows is None else num_rows)
    return rows[name].combine_chunks()
