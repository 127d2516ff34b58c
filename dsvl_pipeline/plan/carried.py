"""Carried columns of rows that keep their answers.

What is carried is the input's and not the answer's: where it changed, the row is written again
with its old answer. A table has one type for each column after a run that ended well, so that tools
that know nothing of the log can read its parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dsvl_pipeline.job.columns import convert, differs, holding_all, python_values
from dsvl_pipeline.job.fields import FieldType
from dsvl_pipeline.plan.committed import AT, Committed, Types, users_columns
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.rewriting import column_of, take_rows, values_of
from dsvl_pipeline.plan.shard_plan import Rewrite
from dsvl_pipeline.stages.rows import CARRY
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.schema import OUR_COLUMNS, output_schema

_PARTS_PER_GROUP = 64

_FIRST_AFTER = "source_uris"  # what users' columns stand before


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Which of one shard's committed rows carry other values than their input does.

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
        """Return what is small of it."""
        return replace(self, changed=self.changed[:0])


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
        committed: From `committed.read_committed`.
        wanted: Of `rows.work_schema`.
        compared: Of both. What it keeps is to carry what its input does; what stays is left alone.
        carry: The carried columns.
        fields: Columns of answers.
        is_redrive: Whether only rows that are answered again are to change.
        save: Takes, for each group of parts that has any, the rows that do not stay as they are
            (`rewriting.values_of`).
    """
    search = _Search(committed, wanted, carry, fields)
    if not is_redrive:  # of which the old answer stays where the new one is an error
        search.expect(compared)
    groups, paths = _Groups(save), search.paths_that_stay()
    changed = dict[str, NDArray[np.int64]]()
    places, staying = dict[str, Rewrite](), dict[str, set[pa.DataType]]()
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        looks = zip(paths, threads.map(search.look, paths), strict=True)
        for path, (is_changed, beside) in looks:
            for name, kind in beside.items():
                staying.setdefault(name, set()).add(kind)
            if is_changed.any():
                changed[path] = committed.places[path].start + np.flatnonzero(is_changed)
            places[path] = groups.add(path, search.values(path, is_changed))
    groups.save()
    return Found(
        num_changed=sum(map(len, changed.values())),
        changed=np.concatenate([np.empty(0, np.int64), *changed.values()]),
        places=places,
        has_changed=frozenset(changed),
        types={path: committed.types[path] for path in paths},
        staying=staying,
    )


class _Search:
    """Looks for rows of one shard that do not carry what they should, part by part."""

    def __init__(
        self,
        committed: Committed,
        wanted: pa.Table,
        carry: pa.Schema,
        fields: Mapping[str, FieldType],
    ) -> None:
        self._committed, self._wanted = committed, wanted
        self._carry, self._fields = carry, fields
        self._job_types = users_columns(output_schema(carry, fields))
        num_rows = committed.rows.num_rows
        # What each row is to carry, among what is wanted; -1 for what it does carry.
        self._at = np.full(num_rows, -1, np.int64)
        self._leaves = np.zeros(num_rows, bool)

    def expect(self, compared: Comparison) -> None:
        """Let kept rows carry what their input does, and stale ones leave the table."""
        if self._job_types or any(self._committed.types.values()):
            known = pc.index_in(compared.kept["row_id"], value_set=self._wanted["row_id"])
            self._at[compared.kept[AT].to_numpy()] = known.to_numpy()
        self._leaves[compared.stale[AT].to_numpy()] = True

    def paths_that_stay(self) -> list[str]:
        """Return the parts that do not leave the table as a whole."""
        places = self._committed.places
        return [path for path, here in places.items() if not self._leaves[here].all()]

    def look(self, path: str) -> tuple[NDArray[np.bool_], Types]:
        """Return which rows of a part carry something else, and types of what stays as it is."""
        here, types = self._committed.places[path], self._committed.types[path]
        of, stays = self._at[here], (self._at[here] < 0) & ~self._leaves[here]
        concerned = []
        if (of >= 0).any():
            concerned = list(_compared(types, self._carry.names, self._fields))
        unlike = [n for n in types if types[n] != self._job_types.get(n) and stays.any()]
        names = [name for name in {*concerned, *unlike} if name in types]
        rows = self._committed.read(path, names) if names else pa.table({})
        return (
            _is_changed(rows, self._wanted, concerned, of),
            _types_beside(rows.select(unlike), stays, self._job_types),
        )

    def values(self, path: str, is_changed: NDArray[np.bool_]) -> pa.Table:
        """Return the rows of a part that do not stay as they are, as `rewriting.values_of`."""
        here, types = self._committed.places[path], self._committed.types[path]
        # Where types differ, what the input has is better than what it was turned into.
        is_written = (self._at[here] >= 0) & (is_changed | (types != self._job_types))
        positions, leaving = np.flatnonzero(is_written), np.flatnonzero(self._leaves[here])
        of = self._at[here][positions]
        now = {name: take_rows(self._wanted[CARRY + name], of) for name in self._carry.names}
        return values_of(positions, now, leaving, self._carry)


class _Groups:
    """Gathers the changed rows of parts, and saves them group by group of parts."""

    def __init__(self, save: Callable[[int, pa.Table], None]) -> None:
        self._save = save
        self._values = list[pa.Table]()
        self._num_parts = 0

    def add(self, path: str, values: pa.Table) -> Rewrite:
        """Take a part's rows; return where they are to be found."""
        group, start = self._num_parts // _PARTS_PER_GROUP, sum(map(len, self._values))
        if values.num_rows:
            self._values.append(values)
        self._num_parts += 1
        if self._num_parts % _PARTS_PER_GROUP == 0:
            self.save()
        return Rewrite(path=path, group=group, start=start, num_rows=values.num_rows)

    def save(self) -> None:
        """Save what the last group has, if anything."""
        if self._values:
            self._save((self._num_parts - 1) // _PARTS_PER_GROUP, pa.concat_tables(self._values))
            self._values = []


def table_schema(schema: pa.Schema, found: Iterable[Found]) -> pa.Schema:
    """Return the schema of all parts of the table, once a run has ended well.

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
    """Return the parts of one shard that are to be written again, for a table of this schema.

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
    """Return which rows of a part carry something else than the wanted rows ``at`` those places."""
    kept = np.flatnonzero(at >= 0)
    is_changed = np.zeros(len(at), bool)
    for name in names:
        before, now = column_of(rows, name, len(at)).take(pa.array(kept)), pa.nulls(len(kept))
        if CARRY + name in wanted.column_names:
            now = take_rows(wanted[CARRY + name], at[kept])
        is_changed[kept] |= _differs(before, now).to_numpy(zero_copy_only=False)
    return is_changed


def _types_beside(rows: pa.Table, stays: NDArray[np.bool_], job_types: Types) -> Types:
    """Return the types that hold what stays of a part as it is, beside what the job writes."""
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
    """Yield what is carried now, or was carried once."""
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
