"""One row's whole story: what was read, when, by which run, where it lies, what it replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.compute as pc

from dsvl_pipeline import keys, storage
from dsvl_pipeline.columns import python_values
from dsvl_pipeline.errors import ConfigError, TableError
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lineage import RunManifest, known_run
from dsvl_pipeline.table.log import LogEntry, Snapshot, read_entries
from dsvl_pipeline.table.part import Receipt, read_part
from dsvl_pipeline.table.schema import LOGICAL_KEY, OUR_COLUMNS

Event = Literal["answered", "replaced", "carried", "moved", "merged", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a row's answer came into a part.

    Attributes:
        event: ``answered`` for the first time, or ``replaced`` the answer of the stage before;
            ``carried`` when what it carries changed, but not the answer;
            ``moved`` when other rows of its part were replaced, ``merged`` by a compaction;
            ``gone``: parts that may have held an earlier answer were vacuumed.
        entry: The commit.
        part: The part, None for ``gone``.
        row: The row as it stood there; empty for ``gone``.
    """

    event: Event
    entry: LogEntry
    part: Receipt | None
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A row of the table, and how it came there.

    Attributes:
        row: All its columns.
        run: The manifest of the run that answered it; None if that left none.
        stages: Newest first, back to the first answer that is known.
    """

    row: Mapping[str, Any]
    run: RunManifest | None
    stages: Sequence[Stage]


def tell(
    uri: str, row_id: str, *, page_index: int | None = None, prompt_id: str | None = None
) -> list[Story]:
    """Tell the story of each row of an input, or of one page or prompt of it.

    Reads the whole log, the parts of one shard, and of earlier parts only those that the entries
    in question removed.

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
        raise ConfigError(
            f"{storage.redact(uri)}: version {snapshot.version} has no row with row_id "
            f"{row_id!r}{asked}; row ids are those of the manifest's id column, or the URIs of "
            "the files (pages count from 0)"
        )
    found.sort(key=lambda item: (item[1]["page_index"] or 0, item[1]["prompt_id"] or ""))
    history = _History(uri, entries)
    return [
        Story(
            row=row,
            run=known_run(uri, row["run_id"]),
            stages=list(history.stages(receipt, row)),
        )
        for receipt, row in found
    ]


class _History:
    """The log, seen from the end of one part backwards."""

    def __init__(self, uri: str, entries: Sequence[LogEntry]) -> None:
        self._uri = uri
        self._entry_of = {receipt.path: entry for entry in entries for receipt in entry.added}
        self._receipts = {receipt.path: receipt for e in entries for receipt in e.added}

    def stages(self, part: Receipt, row: Mapping[str, Any]) -> Iterator[Stage]:
        while True:
            entry = self._entry_of[part.path]
            before = [self._receipts[path] for path in entry.removed]
            before = [receipt for receipt in before if receipt.shard == part.shard]
            earlier, is_whole = self._look_up(before, row)
            yield Stage(event=_event(entry, row, earlier), entry=entry, part=part, row=row)
            if earlier is None:
                if not is_whole:
                    yield Stage(event="gone", entry=entry, part=None, row={})
                return
            part, row = earlier

    def _look_up(
        self, receipts: Sequence[Receipt], row: Mapping[str, Any]
    ) -> tuple[tuple[Receipt, Mapping[str, Any]] | None, bool]:
        """Find a row's predecessor among parts; tell whether all of them could be read."""
        is_whole = True
        for receipt in receipts:
            try:
                ((_, rows),) = _find(self._uri, [receipt], row["row_id"])
            except TableError:
                is_whole = False
                continue
            for candidate in rows:
                if all(candidate[name] == row[name] for name in LOGICAL_KEY):
                    return (receipt, candidate), True
        return None, is_whole


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

    with ThreadPoolExecutor(storage.NUM_THREADS) as threads:
        return list(threads.map(read, receipts))
