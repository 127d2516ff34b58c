"""What a run has to compute: everything wanted minus everything committed and up to date.

Rows stream from the input into a spool on local disk, so that memory does not grow with them;
then one shard at a time is compared with the table, and only what is missing goes into work files
beside the table, for the workers to read.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsvl_pipeline import keys
from dsvl_pipeline.columns import Cell
from dsvl_pipeline.config import PromptConfig
from dsvl_pipeline.pipeline import work
from dsvl_pipeline.pipeline.blocks import (
    CARRY,
    plain_rows,
    prompt_digest_of,
    table_of,
    work_row,
    work_schema,
    work_table,
)
from dsvl_pipeline.pipeline.redrive import IS_ANSWER
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.table.schema import (
    LOGICAL_KEY,
    is_among,
    logical_key,
    output_schema,
    without_pages,
)

ROWS_PER_SHARD = 3_000_000
ROWS_PER_WORK_FILE = 10_000
MOST_COUNTED_BEYOND_LIMIT = 200_000
"""Inputs that a limited run counts beyond its limit; more of them make `_SHARDS_IF_MANY`."""
_SHARDS_IF_MANY = 16
_ROWS_PER_CHUNK = 20_000
_CHARACTERS_PER_CHUNK = 64 << 20
_NO_PROMPT = RowFailure(
    code="no_prompt",
    message="the row's prompt column is empty and the job has no other prompt; fill it in, or "
    "give the job prompts",
)


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
        work_files: URIs of files of `work_schema` (`work.read`).
        work_key: By which they are read.
        num_rows: Work rows in them; a document counts once per prompt, its pages are unknown.
        num_documents: How many of the work rows are documents or TIFFs, to be opened.
        num_up_to_date: Rows of the table that need not run again, pages counted.
        num_final_errors: How many of them are error rows, which only ``--fresh`` computes again.
        num_staying: Rows of the table that nobody asks for any more.
        num_staying_errors: How many of them are error rows.
        num_stale: Committed rows that this run replaces or drops.
        stale_file: URI of a file of their logical keys (`read_stale`); None without any.
        max_images: Most images in one row.
        num_retried: How many of the stale rows are errors.
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
    num_stale: int
    stale_file: str | None
    max_images: int
    num_retried: int = 0
    num_changed: int = 0
    rewrites: tuple[Rewrite, ...] = ()
    values_files: Mapping[int, str] = field(default_factory=dict)


class Spool:
    """The wanted rows, on local disk, dealt into shards.

    Args:
        rows: The input, in its order.
        prompts: What every row is asked.
        recipe: See `keys.recipe_digest`.
        carry: Schema of the carried columns.
    """

    def __init__(
        self, rows: Iterable[Row], prompts: Iterable[PromptConfig], recipe: str, carry: pa.Schema
    ) -> None:
        self._prompts = [
            {"prompt_id": p.id, "prompt": p.text, "schema": p.schema_text, "regex": p.regex}
            for p in prompts
        ]
        self._recipe = recipe
        self._carry = carry.names
        self._long = ("prompt", "schema", *(CARRY + name for name in carry.names))
        self.schema = work_schema(carry)
        self._folder = tempfile.TemporaryDirectory(prefix="dsvl-plan-")
        self._all = Path(self._folder.name) / "all.parquet"
        self.num_rows = 0
        self._state = blake2b(digest_size=16)
        # Millions of small objects come and go: each full collection would look through all that
        # is imported, which took a sixth of the time.
        gc.freeze()
        try:
            self._write(rows)
        except BaseException:
            self.close()
            raise
        finally:
            gc.unfreeze()

    @property
    def digest(self) -> str:
        """Of all that is wanted, in its order: equal for equal inputs and prompts."""
        return self._state.hexdigest()

    def close(self) -> None:
        """Remove the spool from disk."""
        self._folder.cleanup()

    def shards(self, num_shards: int) -> Iterator[tuple[int, pa.Table]]:
        """Each shard's wanted rows, none for some, one shard in memory at a time."""
        if num_shards == 1:
            yield 0, pq.read_table(self._all)
            return
        dealt = self._deal(num_shards)
        for shard in range(num_shards):
            if shard in dealt:
                with pa.OSFile(str(self._path(shard))) as file, pa.ipc.open_stream(file) as rows:
                    yield shard, rows.read_all()
                self._path(shard).unlink()
            else:
                yield shard, self.schema.empty_table()

    def _deal(self, num_shards: int) -> set[int]:
        """Write each shard's rows into a file of its own; return which shards have any."""
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        # Not Parquet: with hundreds of shards a chunk has few rows for each, and a Parquet writer
        # keeps kilobytes in memory for every group of rows until its end.
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with contextlib.ExitStack() as files:
            for batch in pq.ParquetFile(self._all).iter_batches(_ROWS_PER_CHUNK):
                ids = batch["row_id"].to_pylist()
                shards = np.array([keys.shard_of(row_id, num_shards) for row_id in ids])
                order = np.argsort(shards, kind="stable")
                found, starts = np.unique(shards[order], return_index=True)
                rows = batch.take(pa.array(order))
                for shard, start, end in zip(found, starts, [*starts[1:], len(ids)], strict=True):
                    if shard not in writers:
                        file = files.enter_context(pa.OSFile(str(self._path(shard)), "wb"))
                        stream = pa.ipc.new_stream(file, self.schema, options=options)
                        writers[int(shard)] = files.enter_context(stream)
                    writers[shard].write_batch(rows.slice(start, end - start))
        return set(writers)

    def _path(self, shard: int) -> Path:
        return self._all.with_name(f"{shard}.arrows")

    def _write(self, rows: Iterable[Row]) -> None:
        with pq.ParquetWriter(self._all, self.schema, compression="zstd") as writer:
            wanted = itertools.chain.from_iterable(map(self._asks, rows))
            for chunk in _chunks(wanted, self._long):
                table = table_of(chunk, self.schema)
                writer.write_table(table)
                self._state.update(b"".join(_wanted_key(table).to_pylist()))
                self.num_rows += len(chunk)

    def _asks(self, row: Row) -> Iterator[dict[str, Any]]:
        """One work row for each prompt, or one for a row that is bad as it stands."""
        prompts = self._prompts
        if row.prompt is not None:
            own = {"prompt_id": "column", "prompt": row.prompt, "schema": None, "regex": None}
            prompts = [own, *prompts]
        if not prompts and row.failure is None:
            row = replace(row, failure=_NO_PROMPT)
        asked = work_row(row, self._carry)
        if row.failure is not None:
            digest = keys.prompt_digest(row.failure.message)
            yield asked | {"row_key": keys.row_key(row.content_id, None, digest, self._recipe)}
            return
        for prompt in prompts:
            if row.schema is not None and prompt["schema"] is None and prompt["regex"] is None:
                prompt = prompt | {"schema": row.schema}
            row_key = None
            if row.kind == "image":
                digest = prompt_digest_of(prompt)
                row_key = keys.row_key(row.content_id, None, digest, self._recipe)
            yield asked | prompt | {"row_key": row_key}


def _chunks(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into chunks of a bounded number, and bounded where a manifest may have long texts.

    Args:
        rows: Work rows.
        names: Columns that may hold much.
    """
    chunk, size = list[dict[str, Any]](), 0
    for row in rows:
        chunk.append(row)
        for name in names:
            value = row[name]
            if isinstance(value, (str, bytes, list)):
                size += len(value)
            elif isinstance(value, Cell):
                size += value.num_bytes
        if len(chunk) == _ROWS_PER_CHUNK or size > _CHARACTERS_PER_CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One shard's wanted rows against its committed ones; all of its rows are in memory.

    Attributes:
        todo: Of `work_schema`: what has to run.
        kept: Committed rows that are up to date, with the columns they were read with.
        stale: Committed rows that leave the table.
        staying: Committed rows that nobody asks for any more, and that stay.
    """

    todo: pa.Table
    kept: pa.Table
    stale: pa.Table
    staying: pa.Table


def compare(
    wanted: pa.Table,
    committed: pa.Table,
    *,
    recipe: str,
    asked: Collection[str],
    is_fresh: bool = False,
    drops_vanished: bool = False,
) -> Comparison:
    """Tell what of one shard is missing, up to date, stale, or not asked for any more.

    Args:
        wanted: Of `work_schema`.
        committed: At least the columns ``row_id, page_index, prompt_id, row_key, status,
            is_retryable, num_pages, num_frames`` of the shard's committed rows.
        recipe: See `keys.recipe_digest`.
        asked: The job's prompt ids; rows of other prompts stay as they are.
        is_fresh: Whether everything runs again.
        drops_vanished: Whether rows leave the table whose input is no longer there.
    """
    retry = pc.fill_null(committed["is_retryable"], False)
    is_final = pc.invert(pc.and_(pc.equal(committed["status"], "error"), retry))
    # What stands twice (see `complete`) is answered again, which replaces both.
    is_final = pc.and_(is_final, pc.invert(_is_doubled(committed)))
    final = committed.filter(is_final) if not is_fresh else committed.slice(0, 0)
    has_input = pc.is_in(committed["row_id"], pc.unique(wanted["row_id"]))
    is_asked = pc.is_in(committed["prompt_id"], pa.array(sorted(asked), pa.string()))
    is_concerned = pc.and_(has_input, is_asked)
    if drops_vanished:
        # What is concerned and not current leaves the table, and of these nothing is current.
        is_concerned = pc.or_(is_concerned, pc.invert(has_input))
    concerned, staying = (committed.filter(m) for m in (is_concerned, pc.invert(is_concerned)))
    gone = _answered_before(wanted, committed)
    if gone.num_rows:
        wanted = wanted.filter(pc.invert(is_among(wanted, gone)))
    is_document = pc.is_null(wanted["row_key"])
    simple, documents = wanted.filter(pc.invert(is_document)), wanted.filter(is_document)

    known = pc.is_in(_identity(simple), _identity(final))
    good = [_identity(simple.filter(known))]
    missing = [simple.filter(pc.invert(known))]
    if documents.num_rows:
        unread, pages = _unread(documents, final, recipe)
        missing.append(unread)
        good.append(pages)
    current = pa.chunked_array([chunk for g in good for chunk in g.chunks], pa.binary())
    is_current = pc.is_in(_identity(concerned), current)
    if gone.num_rows:
        is_current = pc.or_(is_current, is_among(without_pages(concerned), gone))
    kept, stale = (concerned.filter(m) for m in (is_current, pc.invert(is_current)))
    return Comparison(todo=pa.concat_tables(missing), kept=kept, stale=stale, staying=staying)


def _is_doubled(committed: pa.Table) -> pa.ChunkedArray:
    """Tell for each row whether another one has its logical key."""
    key = logical_key(committed)
    if pc.count_distinct(key).as_py() == len(key):
        return pa.chunked_array([pa.repeat(pa.scalar(False), len(key))])
    counts = pc.value_counts(key)
    return pc.is_in(key, counts.field("values").filter(pc.greater(counts.field("counts"), 1)))


def _answered_before(wanted: pa.Table, committed: pa.Table) -> pa.Table:
    """Give the work rows whose file is gone, but that were answered while it was there.

    All that is committed of them stays, whatever runs again: there is nothing to replace it with.
    """
    gone = wanted.filter(pc.equal(wanted["content_id"], b""))
    if not gone.num_rows:
        return gone
    answers = committed.filter(pc.not_equal(committed["status"], "error"))
    return gone.filter(is_among(gone, without_pages(answers)))


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
        work.write(stale_file, stale, work_key)
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
        num_stale=compared.stale.num_rows,
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
    return work.read(plan.stale_file, plan.work_key)


def _num_errors(rows: pa.Table) -> int:
    return pc.sum(pc.equal(rows["status"], "error")).as_py() or 0


def _identity(rows: pa.Table) -> pa.ChunkedArray:
    """Logical key and row key of each row as one binary value."""
    return pc.binary_join_element_wise(
        logical_key(rows), pc.cast(rows["row_key"], pa.binary()), b"\x00"
    )


def _wanted_key(rows: pa.Table) -> pa.ChunkedArray:
    asked = [pc.fill_null(rows[name], "") for name in ("prompt", "schema", "regex")]
    parts = [pc.cast(part, pa.binary()) for part in (rows["content_id"], *asked)]
    return pc.binary_join_element_wise(logical_key(rows), *parts, b"\x00")


def _unread(documents: pa.Table, final: pa.Table, recipe: str) -> tuple[pa.Table, pa.ChunkedArray]:
    """Documents with pages that lack an answer, and the identities of the pages that have one.

    A committed page says how many pages its document has, so a complete one is never opened. A row
    without a page says that it could not be opened, which settles it until it changes; the pages
    that were read before stay. So does the one row of a TIFF with a single page, but not one that
    was made when only the first of its pages was wanted.
    """
    ids = pc.unique(documents["row_id"])
    of_documents = final.filter(pc.is_in(final["row_id"], ids))
    committed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in of_documents.to_pylist():
        committed.setdefault((row["row_id"], row["prompt_id"]), []).append(row)
    todo: list[dict[str, Any]] = []
    good: list[dict[str, Any]] = []
    for row in plain_rows(documents):
        content_id, digest = row["content_id"], prompt_digest_of(row)
        before = committed.get((row["row_id"], row["prompt_id"]), [])
        current = [
            r
            for r in before
            if r["row_key"] == keys.row_key(content_id, r["page_index"], digest, recipe)
            and not is_first_of_many(r)
        ]
        pages = [r["page_index"] for r in current]
        sizes = {r["num_pages"] for r in current if r["page_index"] is not None}
        if len(sizes) > 1:  # it was replaced, and nothing tells which of its pages are of today
            current, pages, sizes = [], [], set()
        good.extend(current)
        num_pages = next(iter(sizes), None)
        if None not in pages and (num_pages is None or len(pages) < num_pages):
            todo.append(row | {"done_pages": sorted(pages), "num_pages": num_pages})
    identities = _identity(pa.Table.from_pylist(good, schema=final.schema))
    return work_table(todo, documents), identities


def is_first_of_many(row: Mapping[str, Any]) -> bool:
    """Tell whether a committed row is about the first of several pages of a TIFF, and no other."""
    return row["page_index"] is None and (row.get("num_frames") or 0) > 1


def _write_work(todo: pa.Table, work_uri: str, work_key: bytes) -> Iterator[str]:
    for number, start in enumerate(range(0, todo.num_rows, ROWS_PER_WORK_FILE)):
        uri = f"{work_uri}-{number:06d}.parquet"
        work.write(uri, todo.slice(start, ROWS_PER_WORK_FILE), work_key)
        yield uri


def num_shards_for(num_rows: int, num_beyond_limit: int = 0) -> int:
    """Shards of a new table: each bounded, with room to grow by half.

    Args:
        num_rows: Wanted by the run that makes the table.
        num_beyond_limit: Inputs that it left out, counted up to `MOST_COUNTED_BEYOND_LIMIT`. Where
            there are as many, nobody knows how large the table gets: it then has at least 16
            shards, good for 32 million rows. Shards cost an engine's start each, so a small input
            has one.
    """
    fewest = _SHARDS_IF_MANY if num_beyond_limit >= MOST_COUNTED_BEYOND_LIMIT else 1
    return max(fewest, -(-num_rows * 3 // (2 * ROWS_PER_SHARD)))
