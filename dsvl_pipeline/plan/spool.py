"""The wanted rows, on their way from the input into shards.

They stream into a spool on local disk, so that memory does not grow with them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsvl_pipeline import keys
from dsvl_pipeline.job.columns import Cell
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.stages.rows import (
    CARRY,
    prompt_digest_of,
    table_of,
    work_row,
    work_schema,
)
from dsvl_pipeline.table.schema import (
    logical_key,
)

_ROWS_PER_CHUNK = 20_000

_CHARACTERS_PER_CHUNK = 64 << 20

_NO_PROMPT = RowFailure(
    code="no_prompt",
    message="the row's prompt column is empty and the job has no other prompt; fill it in, or "
    "give the job prompts",
)


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
        """Yield each shard's wanted rows, none for some, one shard in memory at a time."""
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
        """Yield one work row for each prompt, or one for a row that is bad as it stands."""
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
    """Yield rows in chunks of a bounded number, and size where a manifest may have long texts.

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


def _wanted_key(rows: pa.Table) -> pa.ChunkedArray:
    asked = [pc.fill_null(rows[name], "") for name in ("prompt", "schema", "regex")]
    parts = [pc.cast(part, pa.binary()) for part in (rows["content_id"], *asked)]
    return pc.binary_join_element_wise(logical_key(rows), *parts, b"\x00")
