"""Which rows of a table a reader wants, decided part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsvl_pipeline.errors import TableError
from dsvl_pipeline.store.redact import redact
from dsvl_pipeline.table.part import Receipt, read_part
from dsvl_pipeline.table.schema import output_schema

Filters: TypeAlias = pc.Expression | Sequence[Any]
"""An expression, or tuples (column, operator, value) as `pyarrow.parquet.read_table` takes them."""

_MISSING = re.compile(r"No match for FieldRef\.Name\((.*?)\) in ")


class RowFilter:
    """Reads those rows of parts that a condition holds for.

    Args:
        filters: The condition.

    Raises:
        ValueError: It is neither an expression nor a list of tuples.
    """

    def __init__(self, filters: Filters) -> None:
        self._condition = _condition(filters)
        self._missing: set[str] = set()
        self._known = set(output_schema().names)

    def read(self, table_uri: str, receipt: Receipt, columns: Sequence[str] | None) -> pa.Table:
        """Read a part as `read_part` does. A column that it has not yet is null.

        Raises:
            PartError: See `read_part`.
            TableError: The condition does not fit the types of the part's columns.
        """
        rows = read_part(table_uri, receipt)
        names = rows.column_names if columns is None else columns
        wanted = [name for name in names if name in rows.column_names]
        self._known.update(rows.column_names)
        try:
            return self._kept(rows).select(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise TableError(
                f"{redact(table_uri)}: the filter does not fit {receipt.path}: {error}"
            ) from error

    def check(self, table_uri: str) -> None:
        """Check, when all parts were read, that each column of the condition is in one of them.

        Raises:
            TableError: One is nowhere.
        """
        if unknown := sorted(self._missing - self._known):
            raise TableError(
                f"{redact(table_uri)}: no part has the column {unknown[0]!r} of the filter; "
                f"there are {', '.join(sorted(self._known))}"
            )

    def _kept(self, rows: pa.Table) -> pa.Table:
        while True:
            try:
                return rows.filter(self._condition)
            except pa.ArrowInvalid as error:
                found = _MISSING.search(str(error))
                if found is None or found[1] in rows.column_names:
                    raise
                self._missing.add(found[1])
                ours = output_schema()
                kind = ours.field(found[1]).type if found[1] in ours.names else pa.null()
                rows = rows.append_column(found[1], pa.nulls(rows.num_rows, kind))


def _condition(filters: Filters) -> pc.Expression:
    if isinstance(filters, pc.Expression):
        return filters
    try:
        return pq.filters_to_expression(filters)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"filters are {filters!r} ({error}); give a pyarrow.compute expression, or tuples such "
            'as [("status", "=", "ok")]'
        ) from error
