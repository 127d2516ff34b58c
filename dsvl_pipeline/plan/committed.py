"""One shard's committed rows, as far as a plan needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.table import reader
from dsvl_pipeline.table.part import read_columns
from dsvl_pipeline.table.schema import OUR_COLUMNS, output_schema
from dsvl_pipeline.table.snapshot import Snapshot

Types: TypeAlias = dict[str, pa.DataType]

AT = "at"
"""Column of committed rows: which row of its shard one is, part after part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """One shard's rows as they are committed.

    Attributes:
        rows: The columns that were asked for, and `AT`.
        places: Which of them are a part's, by part.
        types: Of users' columns, by part.
        read: Reads some columns of a part's rows. Users' columns are as wide as users make them, so
            that only what is compared is read, and never all parts at once.
    """

    rows: pa.Table
    places: Mapping[str, slice]
    types: Mapping[str, Types]
    read: Callable[[str, Sequence[str]], pa.Table]

    def users_row(self, at: int) -> pa.Table:
        """Read what is the user's of one row."""
        path = next(path for path, here in self.places.items() if at < here.stop)
        return self.read(path, list(self.types[path])).slice(at - self.places[path].start, 1)


def read_committed(
    snapshot: Snapshot, shard: int, columns: Sequence[str], row_id: str | None = None
) -> Committed:
    """Read what a plan needs to know of one shard's rows.

    Args:
        snapshot: Of the table.
        shard: Its number.
        columns: Of ours.
        row_id: Of the only row that is of interest.
    """

    def read(path: str, names: Sequence[str]) -> pa.Table:
        receipt = snapshot.parts[path]
        if row_id is None:
            return read_columns(snapshot.uri, receipt, names)
        rows = read_columns(snapshot.uri, receipt, ["row_id", *names])
        return rows.filter(pc.equal(rows["row_id"], row_id))

    found = [output_schema().empty_table().select(list(columns))]
    places, types, start = dict[str, slice](), dict[str, Types](), 0
    for path, rows, schema in reader.committed_parts(snapshot, shard, columns, row_id):
        found.append(rows.select(list(columns)))
        places[path] = slice(start, start + rows.num_rows)
        start += rows.num_rows
        of_part = users_columns(schema)
        types[path] = next((known for known in types.values() if known == of_part), of_part)
    together = pa.concat_tables(found).append_column(AT, pa.array(np.arange(start)))
    return Committed(rows=together, places=places, types=types, read=read)


def users_columns(schema: pa.Schema) -> Types:
    """Return the types of the columns that are not our own."""
    return {field.name: field.type for field in schema if field.name not in OUR_COLUMNS}
