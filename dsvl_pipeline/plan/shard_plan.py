"""What a run has to do in one shard, written down beside the table for the workers to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.redrive import IS_ANSWER
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.table.schema import (
    LOGICAL_KEY,
    output_schema,
)

ROWS_PER_SHARD = 3_000_000

ROWS_PER_WORK_FILE = 10_000

MOST_COUNTED_BEYOND_LIMIT = 200_000
"""Inputs that a limited run counts beyond its limit; more of them make `_SHARDS_IF_MANY`."""

_SHARDS_IF_MANY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A part that is written again.

    Attributes:
        path: Of the part.
        group: Of parts that are replaced in one commit, and whose values are in one file.
        start: Of its rows in that file.
        num_rows: In that file; 0 for a part in which only types change.
    """

    path: str
    group: int
    start: int
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """What is missing in one shard.

    Attributes:
        shard: Its number.
        work_files: URIs of files of `rows.work_schema` (`work_files.read`).
        work_key: By which they are read.
        num_rows: Work rows in them; a document counts once per prompt, its pages are unknown.
        num_documents: How many of the work rows are documents or TIFFs, to be opened.
        num_up_to_date: Rows of the table that need not run again, pages counted.
        num_final_errors: How many of them are error rows, which only ``--fresh`` computes again.
        num_staying: Rows of the table that nobody asks for any more.
        num_staying_errors: How many of them are error rows.
        stale_file: URI of a file of the logical keys of the committed rows that this run replaces
            or drops (`read_stale`); None without any.
        max_images: Most images in one row.
        num_retried: How many of those rows are errors.
        num_changed: How many of the rows that need not run again carry other values now.
        rewrites: Parts to be written again for them, or for the types of their columns.
        values_files: URIs of files of what they carry (`carried.Found`), by group of parts.
    """

    shard: int
    work_files: tuple[str, ...]
    work_key: bytes = field(repr=False)
    num_rows: int
    num_documents: int
    num_up_to_date: int
    num_final_errors: int
    num_staying: int
    num_staying_errors: int
    stale_file: str | None
    max_images: int
    num_retried: int = 0
    num_changed: int = 0
    rewrites: tuple[Rewrite, ...] = ()
    values_files: Mapping[int, str] = field(default_factory=dict)


def plan_shard(shard: int, compared: Comparison, *, work_uri: str, work_key: bytes) -> ShardPlan:
    """Write down what one shard has to do, so that its rows need not stay in memory.

    Args:
        shard: Its number.
        compared: From `compare`.
        work_uri: Prefix for the work files.
        work_key: The run's, for their encryption.
    """
    todo, kept, staying = compared.todo, compared.kept, compared.staying
    sizes = pc.list_value_length(todo["sources"])
    stale_file = None
    if compared.stale.num_rows:
        stale_file = f"{work_uri}-stale.parquet"
        known = compared.stale.column_names
        stale = compared.stale.select([n for n in (*LOGICAL_KEY, IS_ANSWER) if n in known])
        work_files.write(stale_file, stale, work_key)
    return ShardPlan(
        shard=shard,
        work_files=tuple(_write_work(todo, work_uri, work_key)),
        work_key=work_key,
        num_rows=todo.num_rows,
        num_documents=todo["row_key"].null_count,
        num_up_to_date=kept.num_rows,
        num_final_errors=_num_errors(kept),
        num_staying=staying.num_rows,
        num_staying_errors=_num_errors(staying),
        stale_file=stale_file,
        max_images=pc.max(sizes).as_py() or 0,
        num_retried=_num_errors(compared.stale),
    )


def read_stale(plan: ShardPlan) -> pa.Table:
    """Read the logical keys of the committed rows that a shard's run replaces or drops.

    Those of a redrive say too which are answers (`redrive.IS_ANSWER`).
    """
    if plan.stale_file is None:
        return output_schema().empty_table().select(LOGICAL_KEY)
    return work_files.read(plan.stale_file, plan.work_key)


def _num_errors(rows: pa.Table) -> int:
    return pc.sum(pc.equal(rows["status"], "error")).as_py() or 0


def _write_work(todo: pa.Table, work_uri: str, work_key: bytes) -> Iterator[str]:
    for number, start in enumerate(range(0, todo.num_rows, ROWS_PER_WORK_FILE)):
        uri = f"{work_uri}-{number:06d}.parquet"
        work_files.write(uri, todo.slice(start, ROWS_PER_WORK_FILE), work_key)
        yield uri


def num_shards_for(num_rows: int, num_beyond_limit: int = 0) -> int:
    """Return the number of shards of a new table: each bounded, with room to grow by half.

    Args:
        num_rows: Wanted by the run that makes the table.
        num_beyond_limit: Inputs that it left out, counted up to `MOST_COUNTED_BEYOND_LIMIT`. Where
            there are as many, nobody knows how large the table gets: it then has at least 16
            shards, good for 32 million rows. Shards cost an engine's start each, so a small input
            has one.
    """
    fewest = _SHARDS_IF_MANY if num_beyond_limit >= MOST_COUNTED_BEYOND_LIMIT else 1
    return max(fewest, -(-num_rows * 3 // (2 * ROWS_PER_SHARD)))
