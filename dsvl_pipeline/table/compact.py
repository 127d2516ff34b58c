"""Merge small parts: fewer objects to list and open, the same rows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dsvl_pipeline.store import objects
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.part import Receipt, part_metadata, read_part, write_part
from dsvl_pipeline.table.reader import join_rows
from dsvl_pipeline.table.writer import TableWriter

ROWS_PER_PART = 50_000
"""Of a merged part: 10 to 100 MB, the size that Spark, DuckDB and object stores like."""
MAX_PART_BYTES = 128 << 20
"""Of the parts that are merged into one; a worker holds them in memory, and their rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What `compact` did.

    Attributes:
        num_parts_before: Of the whole table.
        num_parts: Of the whole table, afterwards.
        version: Of the table, afterwards.
    """

    num_parts_before: int
    num_parts: int
    version: int


def compact(uri: str, *, rows_per_part: int = ROWS_PER_PART) -> Compaction:
    """Merge a table's small parts, shard by shard, each shard in one log entry.

    It holds the table's lease, so no run can be at work meanwhile. Readers of the log see each row
    once at any moment; what reads ``data/`` by itself must wait for the end. The rows keep their
    lineage; the merged part's metadata names the parts that it was made of.

    Args:
        uri: The table.
        rows_per_part: A merged part holds at most as many; parts with half as many stay as they
            are.

    Raises:
        NotFoundError: There is no table.
        LeaseError: A run is at work.
        TableError: A part is missing or damaged.
    """
    num_shards = read_format(uri).num_shards  # before a writer would make a table
    run_id = f"compact-{uuid.uuid4().hex[:8]}"
    with TableWriter.open(
        uri, num_shards=num_shards, run_id=run_id, recipe="", operation="compact"
    ) as writer:
        num_before = len(writer.snapshot.parts)
        for shard in range(num_shards):
            groups = list(_groups(writer.snapshot.in_shard(shard), rows_per_part))
            # One after the other, each with threads of its own: memory holds one group.
            merged = [_merge(writer, group) for group in groups]
            writer.replace(merged, [receipt.path for group in groups for receipt in group])
        writer.finish()
        return Compaction(
            num_parts_before=num_before,
            num_parts=len(writer.snapshot.parts),
            version=writer.snapshot.version,
        )


def _groups(receipts: Sequence[Receipt], rows_per_part: int) -> Iterator[list[Receipt]]:
    """Yield what becomes one part, in the order in which it was committed."""
    group: list[Receipt] = []
    for receipt in receipts:
        if 2 * receipt.num_rows >= rows_per_part or 2 * receipt.num_bytes >= MAX_PART_BYTES:
            continue
        num_rows = sum(r.num_rows for r in group) + receipt.num_rows
        num_bytes = sum(r.num_bytes for r in group) + receipt.num_bytes
        if num_rows > rows_per_part or num_bytes > MAX_PART_BYTES:
            if len(group) > 1:
                yield group
            group = []
        group.append(receipt)
    if len(group) > 1:
        yield group


def _merge(writer: TableWriter, group: Sequence[Receipt]) -> Receipt:
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        tables = list(threads.map(lambda receipt: read_part(writer.uri, receipt), group))
    # What all of them say; where they differ (runs, versions) each row names its run.
    said = [part_metadata(table).items() for table in tables]
    common = dict(set(said[0]).intersection(*said[1:]))
    origins = [{"path": receipt.path, "sha256": receipt.sha256} for receipt in group]
    return write_part(
        writer.uri,
        join_rows([table.replace_schema_metadata(None) for table in tables]),
        shard=group[0].shard,
        lease=writer.lease_number,
        metadata={**common, "compacted_from": json.dumps(origins)},
    )
