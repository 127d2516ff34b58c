"""What failed in a table, by reason: counts, examples, and the rows themselves."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.codes import STAGES, Stage, stage_of
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.reader import read_parts
from dsvl_pipeline.table.schema import LOGICAL_KEY, output_schema
from dsvl_pipeline.table.snapshot import Snapshot

_COLUMNS = (
    *LOGICAL_KEY,
    "status",
    "error_code",
    "error_message",
    "finish_reason",
    "is_retryable",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows of a table that are not ok; of each kind given, one must fit.

    Attributes:
        codes: Error codes. Cut answers, which have none, count as ``length``.
        stages: Stages that codes belong to.
        row_ids: Of rows; all pages and prompts of them. These may be ok as well.
    """

    codes: frozenset[str] = frozenset()
    stages: frozenset[Stage] = frozenset()
    row_ids: frozenset[str] = frozenset()

    def rows(self, table: pa.Table) -> pa.Table:
        """Return those of a table's rows that fit, with their code as ``code``."""
        retry = pc.fill_null(table["is_retryable"], False)
        at = table.column_names.index("is_retryable")
        table = table.set_column(at, "is_retryable", retry).append_column("code", _code(table))
        is_wanted = pc.is_valid(table["code"])
        if self.row_ids:
            is_wanted = _is_among(table["row_id"], self.row_ids)
        if self.codes:
            is_wanted = pc.and_(is_wanted, _is_among(table["code"], self.codes))
        if self.stages:
            codes = [c for c in pc.unique(table["code"]).to_pylist() if c is not None]
            wanted = frozenset(code for code in codes if stage_of(code) in self.stages)
            is_wanted = pc.and_(is_wanted, _is_among(table["code"], wanted))
        return table.filter(is_wanted)


@dataclass(slots=True, kw_only=True)
class Failure:
    """The rows that failed for one reason.

    Attributes:
        code: Of all of them.
        status: ``error`` or ``degraded``.
        is_retryable: Whether the next run of the job computes them again by itself.
        num_rows: How many they are.
        examples: Row ids, with page and prompt where there are any, and messages.
    """

    code: str
    status: str
    is_retryable: bool
    num_rows: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def stage(self) -> Stage:
        return stage_of(self.code)


def read_failures(
    uri: str, selection: Selection = Selection(), *, num_examples: int = 3
) -> list[Failure]:
    """Count the rows that are not ok by code, stage by stage, the most frequent first.

    Parts without such rows are not read, the others a few at a time.

    Raises:
        NotFoundError: There is no table.
    """
    found: dict[tuple[str, str, bool], Failure] = {}
    snapshot = read_snapshot(uri)
    for rows in _scan(snapshot, snapshot.parts.values(), selection):
        groups = rows.group_by(["code", "status", "is_retryable"]).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            num_rows = group.pop("count_all")
            failure = found.setdefault(tuple(group.values()), Failure(**group))
            failure.num_rows += num_rows
            if (missing := num_examples - len(failure.examples)) > 0:
                is_like = functools.reduce(
                    pc.and_, (pc.equal(rows[name], value) for name, value in group.items())
                )
                like = rows.filter(is_like).slice(0, missing).to_pylist()
                failure.examples += [(_name(row), row["error_message"] or "") for row in like]
    return sorted(
        found.values(), key=lambda f: (STAGES.index(f.stage), -f.num_rows, f.code, f.status)
    )


def read_selected(snapshot: Snapshot, shard: int, selection: Selection) -> pa.Table:
    """Read the logical keys of those of a shard's rows that fit."""
    parts = snapshot.in_shard(shard)
    keys = [rows.select(LOGICAL_KEY) for rows in _scan(snapshot, parts, selection)]
    return pa.concat_tables([output_schema().empty_table().select(LOGICAL_KEY), *keys])


def _scan(snapshot: Snapshot, parts: Iterable[Receipt], selection: Selection) -> Iterator[pa.Table]:
    """Yield what fits, part by part; parts in which nothing can are not read."""

    def rows_of(part: Receipt) -> pa.Table:
        return selection.rows(read_parts(snapshot, [part], _COLUMNS))

    concerned = [part for part in parts if selection.row_ids or _has_failures(part)]
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        # So many at a time: all results of one map would wait in memory.
        for start in range(0, len(concerned), objects.NUM_THREADS):
            yield from threads.map(rows_of, concerned[start : start + objects.NUM_THREADS])


def _has_failures(part: Receipt) -> bool:
    return part.num_rows > part.statuses.get("ok", 0)


def _is_among(column: pa.ChunkedArray, values: frozenset[str]) -> pa.ChunkedArray:
    return pc.is_in(column.cast(pa.string()), pa.array(sorted(values), pa.string()))


def _code(rows: pa.Table) -> pa.ChunkedArray:
    """Return the code of each row that is not ok; what a degraded answer without one ended with."""
    is_degraded = pc.equal(rows["status"], "degraded")
    ended = pc.if_else(is_degraded, rows["finish_reason"], pa.scalar(None, pa.string()))
    code = pc.coalesce(rows["error_code"].cast(pa.string()), ended.cast(pa.string()))
    return pc.if_else(pc.equal(rows["status"], "ok"), pa.scalar(None, pa.string()), code)


def _name(row: dict[str, Any]) -> str:
    page = "" if row["page_index"] is None else f" page {row['page_index'] + 1}"
    prompt = f" ({row['prompt_id']})" if row["prompt_id"] else ""
    return f"{row['row_id']}{page}{prompt}"
