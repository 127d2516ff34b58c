"""The history of one row: its answers, the runs that made them, and the parts that hold them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.errors import ConfigError, TableError
from dsvl_pipeline.job.columns import python_values
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lineage import RunManifest, known_run
from dsvl_pipeline.table.log import read_entries
from dsvl_pipeline.table.part import Receipt, read_columns, read_part
from dsvl_pipeline.table.schema import LOGICAL_KEY, OUR_COLUMNS
from dsvl_pipeline.table.snapshot import LogEntry, Snapshot
from dsvl_pipeline.wording import hint

Event = Literal[
    "answered", "replaced", "carried", "moved", "merged", "left", "dropped", "gone", "unknown"
]
_MOST_NAMES = 1_000_000
"""A table's first so many row ids are searched for one that is near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a row's answer came into a part, or went.

    Attributes:
        event: ``answered`` where the table had no answer, or ``replaced`` that of the stage before;
            ``carried`` when what it carries changed, but not the answer;
            ``moved`` when other rows of its part were replaced, ``merged`` by a compaction;
            ``left``: the answer of the stage before left the table without another one.
            The others tell where an earlier answer may have been: ``dropped``: in a lost or damaged
            part that a repair took out of the table; ``gone``: in parts that were vacuumed
            after this entry; ``unknown``: in those that were vacuumed after any earlier one.
        entry: The commit.
        part: The part; None for ``left``, ``gone`` and ``unknown``.
        row: The row as it stood there; empty where it is not known.
    """

    event: Event
    entry: LogEntry
    part: Receipt | None
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowHistory:
    """A row of the table, and how it came there.

    Attributes:
        row: All its columns.
        run: The manifest of the run that answered it; None if that left none.
        stages: Newest first, back to the first answer that is known; also past times when the
            table had none.
    """

    row: Mapping[str, Any]
    run: RunManifest | None
    stages: Sequence[Stage]


def row_histories(
    uri: str, row_id: str, *, page_index: int | None = None, prompt_id: str | None = None
) -> list[RowHistory]:
    """Read the history of each row of an input, or of one page or prompt of it.

    Reads the whole log, the parts of one shard, and of earlier parts those that the entries in
    question removed; where the row was answered anew without a predecessor, the keys in all of the
    shard's but those that a compaction merged.

    Raises:
        NotFoundError: There is no table.
        ConfigError: It has no such row.
        TableError: A part is missing or damaged.
    """
    shard = keys.shard_of(row_id, read_format(uri).num_shards)
    entries = read_entries(uri)
    snapshot = Snapshot(uri=uri, parts={}).after(entries)
    found = [
        (receipt, row)
        for receipt, rows in _find(uri, snapshot.in_shard(shard), row_id)
        for row in rows
        if page_index in (None, row["page_index"]) and prompt_id in (None, row["prompt_id"])
    ]
    if not found:
        asked = "" if page_index is None else f", page_index {page_index}"
        asked += "" if prompt_id is None else f", prompt_id {prompt_id!r}"
        near = "" if asked else near_rows(snapshot, row_id)
        raise ConfigError(
            f"{objects.redact(uri)}: version {snapshot.version} has no row with row_id "
            f"{row_id!r}{asked}; {near}row ids are those of the manifest's id column, or the URIs "
            f"of the files (pages count from 0){_of_repairs(entries, shard)}"
        )
    found.sort(key=lambda item: (item[1]["page_index"] or 0, item[1]["prompt_id"] or ""))
    history = _Log(uri, entries, row_id)
    return [
        RowHistory(
            row=row,
            run=known_run(uri, row["run_id"]),
            stages=list(history.stages(receipt, row)),
        )
        for receipt, row in found
    ]


class _Log:
    """The log, seen from the end of one part backwards."""

    def __init__(self, uri: str, entries: Sequence[LogEntry], row_id: str) -> None:
        # Of the row id in each part that was looked at; None where it cannot be read.
        self._keys: dict[str, list[dict[str, Any]] | None] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._uri, self._row_id = uri, row_id
        self._entries = entries
        self._entry_of = {receipt.path: entry for entry in entries for receipt in entry.added}
        self._receipts = {receipt.path: receipt for e in entries for receipt in e.added}

    def stages(self, part: Receipt, row: Mapping[str, Any]) -> Iterator[Stage]:
        found: tuple[Receipt, Mapping[str, Any]] | None = (part, row)
        while found is not None:
            part, row = found
            entry = self._entry_of[part.path]
            found, is_whole = self._look_up(self._removed(entry, part.shard), row)
            yield Stage(event=_event(entry, row, found), entry=entry, part=part, row=row)
            if found is None and not is_whole:
                yield Stage(event="gone", entry=entry, part=None, row={})
            elif found is None:
                found = yield from self._absence(entry, part.shard, row)

    def _absence(
        self, until: LogEntry, shard: int, row: Mapping[str, Any]
    ) -> Generator[Stage, None, tuple[Receipt, Mapping[str, Any]] | None]:
        """Look in what left the table before an entry; yield how, return where the row stood.

        Where a repair dropped a part nobody can tell which rows were in it.
        """
        dropped, is_known = set[str](), True
        earlier = [e for e in self._entries[: until.number - 1] if self._removed(e, shard)][::-1]
        for index, entry in enumerate(earlier):
            if index % objects.NUM_THREADS == 0:
                some = earlier[index : index + objects.NUM_THREADS]
                some = [e for e in some if e.author.operation != "compact"]
                self._look_at([part for e in some for part in self._removed(e, shard)])
            # A compaction's rows are all in what it wrote, so that they did not leave by it.
            if entry.author.operation == "compact" and not dropped:
                continue
            removed = self._removed(entry, shard)
            found, is_whole = self._look_up(removed, row)
            if found is not None:
                # What it wrote instead may be what the repair dropped.
                if dropped.isdisjoint(receipt.path for receipt in entry.added):
                    yield Stage(event="left", entry=entry, part=None, row={})
                return found
            if entry.author.operation == "repair":
                for receipt in removed:
                    dropped.add(receipt.path)
                    yield Stage(event="dropped", entry=entry, part=receipt, row={})
            elif entry.author.operation != "compact":
                is_known &= is_whole
        if not is_known:
            yield Stage(event="unknown", entry=until, part=None, row={})
        return None

    def _removed(self, entry: LogEntry, shard: int) -> list[Receipt]:
        removed = [self._receipts[path] for path in entry.removed]
        return [receipt for receipt in removed if receipt.shard == shard]

    def _look_up(
        self, receipts: Sequence[Receipt], row: Mapping[str, Any]
    ) -> tuple[tuple[Receipt, Mapping[str, Any]] | None, bool]:
        """Find a row's predecessor among parts; return whether all of them could be read."""
        is_whole = True
        self._look_at(receipts)
        for receipt in receipts:
            found = self._keys[receipt.path]
            is_whole &= found is not None
            if found and any(all(k[name] == row[name] for name in LOGICAL_KEY) for k in found):
                try:
                    rows = self._read(receipt)
                except TableError:
                    is_whole = False
                    continue
                for candidate in rows:
                    if all(candidate[name] == row[name] for name in LOGICAL_KEY):
                        return (receipt, candidate), True
        return None, is_whole

    def _look_at(self, receipts: Sequence[Receipt]) -> None:
        """Read which rows of the row id are in parts, several at once, and no other column."""

        def keys_in(receipt: Receipt) -> list[dict[str, Any]] | None:
            try:
                rows = read_columns(self._uri, receipt, LOGICAL_KEY)
            except TableError:
                return None
            found: list[dict[str, Any]] = rows.filter(
                pc.equal(rows["row_id"], self._row_id)
            ).to_pylist()
            return found

        new = [receipt for receipt in receipts if receipt.path not in self._keys]
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            for receipt, found in zip(new, threads.map(keys_in, new), strict=True):
                self._keys[receipt.path] = found

    def _read(self, receipt: Receipt) -> list[dict[str, Any]]:
        if receipt.path not in self._rows:
            ((_, self._rows[receipt.path]),) = _find(self._uri, [receipt], self._row_id)
        return self._rows[receipt.path]


def _of_repairs(entries: Sequence[LogEntry], shard: int) -> str:
    """Return which repairs dropped parts that may have held a row that is not there."""
    receipts = {receipt.path: receipt for entry in entries for receipt in entry.added}
    repairs = [
        f"version {entry.number}, {entry.committed_at[:19]}Z"
        for entry in entries
        if entry.author.operation == "repair"
        and any(receipts[path].shard == shard for path in entry.removed)
    ]
    if not repairs:
        return ""
    return (
        f"; it may have stood in a lost or damaged part that `dsvl repair` dropped "
        f"({'; '.join(repairs)}): then running the job again computes it"
    )


def near_rows(snapshot: Snapshot, row_id: str) -> str:
    """Return a hint for a message: a row id of the table that is near; empty without one."""
    return hint(row_id, _row_ids(snapshot))


def _row_ids(snapshot: Snapshot) -> Iterator[str]:
    num_rows = 0
    for receipt in snapshot.parts.values():
        if num_rows >= _MOST_NAMES:
            return
        with suppress(TableError):  # a damaged part is another matter
            rows = read_columns(snapshot.uri, receipt, ("row_id",))
            yield from rows["row_id"].unique().to_pylist()
        num_rows += receipt.num_rows


def _event(
    entry: LogEntry, row: Mapping[str, Any], earlier: tuple[Receipt, Mapping[str, Any]] | None
) -> Event:
    if entry.author.operation == "compact":
        return "merged"
    if earlier is None:
        # What is left of a part that can no longer be read was not answered by this entry's run.
        return "answered" if row["run_id"] in (None, entry.author.run_id) else "moved"
    is_same = all(earlier[1].get(name) == row.get(name) for name in ("run_id", "produced_at"))
    if not is_same:
        return "replaced"
    users = (earlier[1].keys() | row.keys()) - OUR_COLUMNS
    return "moved" if all(earlier[1].get(n) == row.get(n) for n in users) else "carried"


def _find(
    uri: str, receipts: Sequence[Receipt], row_id: str
) -> list[tuple[Receipt, list[dict[str, Any]]]]:
    def read(receipt: Receipt) -> tuple[Receipt, list[dict[str, Any]]]:
        rows = read_part(uri, receipt)
        rows = rows.filter(pc.equal(rows["row_id"], row_id))
        users = [name for name in rows.column_names if name not in OUR_COLUMNS]
        found: list[dict[str, Any]] = rows.drop_columns(users).to_pylist()
        for name in users:
            for row, value in zip(found, python_values(rows[name]), strict=True):
                row[name] = value
        return receipt, found

    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        return list(threads.map(read, receipts))
