"""Carried columns of rows that keep their answers.

What is carried is the input's and not the answer's: where it changed, the row is written again
with its old answer. A table has one type for each column after a run that ended well, so that tools
that know nothing of the log can read its parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dsvl_pipeline.job.columns import convert, differs, holding_all, python_values
from dsvl_pipeline.job.fields import FieldType
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.rewriting import column_of, take_rows, values_of
from dsvl_pipeline.plan.shard_plan import Rewrite
from dsvl_pipeline.stages.rows import CARRY
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import reader
from dsvl_pipeline.table.part import read_columns
from dsvl_pipeline.table.schema import OUR_COLUMNS, output_schema
from dsvl_pipeline.table.snapshot import Snapshot

Types: TypeAlias = dict[str, pa.DataType]

AT = "at"
"""Column of committed rows: which row of its shard one is, part after part."""

_PARTS_PER_GROUP = 64

_FIRST_AFTER = "source_uris"  # what users' columns stand before


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What of one shard's committed rows does not carry what it should.

    Attributes:
        num_changed: How many rows' values changed.
        changed: `AT` of these rows.
        places: Of the parts whose rows do not all stay as they are.
        has_changed: Parts with rows whose values changed.
        types: Types of users' columns, by part; without parts that leave the table as a whole.
        staying: Types of what rows hold that are not written anew, by column.
    """

    num_changed: int
    changed: NDArray[np.int64]
    places: Mapping[str, Rewrite]
    has_changed: frozenset[str]
    types: Mapping[str, Types]
    staying: Mapping[str, set[pa.DataType]]

    def without_rows(self) -> Found:
        """Give what is small of it."""
        return replace(self, changed=self.changed[:0])


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
    """Give the types of the columns that are not our own."""
    return {field.name: field.type for field in schema if field.name not in OUR_COLUMNS}


def find(
    committed: Committed,
    wanted: pa.Table,
    compared: Comparison,
    *,
    carry: pa.Schema,
    fields: Mapping[str, FieldType],
    is_redrive: bool = False,
    save: Callable[[int, pa.Table], None] = lambda group, values: None,
) -> Found:
    """Compare what the rows of one shard carry with what their input does.

    Args:
        committed: From `read_committed`.
        wanted: Of `rows.work_schema`.
        compared: Of both. Rows that it keeps are to carry what their input does; what stays though
            nobody asks for it is left as it is.
        carry: The carried columns.
        fields: Columns of answers.
        is_redrive: Whether only rows that are answered again are to change.
        save: Takes, for each group of parts that has any, the rows that do not stay as they are:
            their position in the part, what they carry now, and whether they leave the table.
    """
    job_types = users_columns(output_schema(carry, fields))
    num_rows = committed.rows.num_rows
    at = np.full(num_rows, -1, np.int64)  # what a row is to carry, among what is wanted
    if not is_redrive and (job_types or any(committed.types.values())):
        known = pc.index_in(compared.kept["row_id"], value_set=wanted["row_id"])
        at[compared.kept[AT].to_numpy()] = known.to_numpy()
    leaves = np.zeros(num_rows, bool)
    if not is_redrive:  # of which the old answer stays where the new one is an error
        leaves[compared.stale[AT].to_numpy()] = True

    def look(path: str) -> tuple[NDArray[np.bool_], Types]:
        here, types = committed.places[path], committed.types[path]
        of, stays = at[here], (at[here] < 0) & ~leaves[here]
        concerned = list(_compared(types, carry.names, fields)) if (of >= 0).any() else []
        unlike = [name for name in types if types[name] != job_types.get(name) and stays.any()]
        names = [name for name in {*concerned, *unlike} if name in types]
        rows = committed.read(path, names) if names else pa.table({})
        return (
            _is_changed(rows, wanted, concerned, of),
            _types_beside(rows.select(unlike), stays, job_types),
        )

    paths = [path for path, here in committed.places.items() if not leaves[here].all()]
    changed, values = [np.empty(0, np.int64)], list[pa.Table]()
    has_changed, places, staying = set[str](), dict[str, Rewrite](), dict[str, set[pa.DataType]]()
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        for number, (path, found) in enumerate(zip(paths, threads.map(look, paths), strict=True)):
            is_changed, beside = found
            for name, kind in beside.items():
                staying.setdefault(name, set()).add(kind)
            here, group = committed.places[path], number // _PARTS_PER_GROUP
            if is_changed.any():
                has_changed.add(path)
                changed.append(here.start + np.flatnonzero(is_changed))
            # Where types differ, what the input has is better than what it was turned into.
            is_written = (at[here] >= 0) & (is_changed | (committed.types[path] != job_types))
            positions, leaving = np.flatnonzero(is_written), np.flatnonzero(leaves[here])
            num_values, start = len(positions) + len(leaving), sum(map(len, values))
            places[path] = Rewrite(path=path, group=group, start=start, num_rows=num_values)
            if num_values:
                of = at[here][positions]
                now = {name: take_rows(wanted[CARRY + name], of) for name in carry.names}
                values.append(values_of(positions, now, leaving, carry))
            if values and (number + 1 == len(paths) or (number + 1) % _PARTS_PER_GROUP == 0):
                save(group, pa.concat_tables(values))
                values = []
    all_changed = np.concatenate(changed)
    return Found(
        num_changed=len(all_changed),
        changed=all_changed,
        places=places,
        has_changed=frozenset(has_changed),
        types={path: committed.types[path] for path in paths},
        staying=staying,
    )


def table_schema(schema: pa.Schema, found: Iterable[Found]) -> pa.Schema:
    """Give the schema of all parts of the table, once a run has ended well.

    It is that of the job's own rows, but for what stays in the table from earlier inputs: a column
    that only those have stays as well, and a column has a type that holds their values, too.

    Args:
        schema: Of the rows that the job answers.
        found: Of each shard.
    """
    staying: dict[str, set[pa.DataType]] = {}
    for one in found:
        for name, kinds in one.staying.items():
            staying.setdefault(name, set()).update(kinds)
    columns = []
    for field in schema:
        if field.name == _FIRST_AFTER:
            left = sorted(staying.keys() - set(schema.names))
            columns += [pa.field(name, holding_all(staying[name])) for name in left]
        kinds = staying.get(field.name, set())
        columns.append(field.with_type(holding_all({field.type, *kinds})) if kinds else field)
    return pa.schema(columns)


def rewrites(found: Found, schema: pa.Schema, *, is_partial: bool = False) -> tuple[Rewrite, ...]:
    """Give the parts of one shard that are to be written again, for a table of this schema.

    Args:
        found: Of the shard.
        schema: From `table_schema`.
        is_partial: Whether this run is about some rows only: it leaves alone the parts that only
            lack columns, however many there are.
    """
    wanted = users_columns(schema)

    def is_due(types: Types) -> bool:
        common = {name: wanted[name] for name in types if name in wanted}
        return types != (common if is_partial else wanted)

    return tuple(
        found.places[path]
        for path, types in found.types.items()
        if path in found.has_changed or is_due(types)
    )


def _is_changed(
    rows: pa.Table, wanted: pa.Table, names: Iterable[str], at: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which rows of a part carry something else than the wanted rows ``at`` those places."""
    kept = np.flatnonzero(at >= 0)
    is_changed = np.zeros(len(at), bool)
    for name in names:
        before, now = column_of(rows, name, len(at)).take(pa.array(kept)), pa.nulls(len(kept))
        if CARRY + name in wanted.column_names:
            now = take_rows(wanted[CARRY + name], at[kept])
        is_changed[kept] |= _differs(before, now).to_numpy(zero_copy_only=False)
    return is_changed


def _types_beside(rows: pa.Table, stays: NDArray[np.bool_], job_types: Types) -> Types:
    """Give the types that hold what stays of a part as it is, beside what the job writes."""
    types = {}
    for name in rows.column_names:
        column = column_of(rows, name).filter(pa.array(stays))
        if column.null_count < len(column):
            types[name] = holding_all([job_types.get(name, pa.null())], [column])
    return types


def changes(before: pa.Table, now: pa.Table, fields: Collection[str]) -> list[str]:
    """Put into words what a row carried and what its input does, for the columns that differ.

    Args:
        before: Users' columns of one committed row.
        now: Its work row.
        fields: Columns of answers, which are not compared.
    """
    inputs = [n.removeprefix(CARRY) for n in now.column_names if n.startswith(CARRY)]
    told = []
    for name in _compared(before.column_names, inputs, fields):
        was, is_now = column_of(before, name, 1), column_of(now, CARRY + name, 1)
        if _differs(was, is_now).to_pylist() == [True]:
            (old,), (new,) = python_values(was), python_values(is_now)
            told.append(f"{name} was {old!r}, is {new!r}")
    return told


def _compared(
    before: Collection[str], now: Collection[str], fields: Collection[str]
) -> Iterator[str]:
    """What is carried now, or was carried once."""
    yield from now
    for name in before:
        if name not in now and name not in fields and name not in OUR_COLUMNS:
            yield name


def _differs(one: pa.Array, other: pa.Array) -> pa.Array:
    """Compare values of two types by what they have in common, at worst as text."""
    if one.type != other.type:
        common = holding_all((), (one, other))
        one, other = convert(one, common), convert(other, common)
    return differs(one, other)
