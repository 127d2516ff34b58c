"""Whether what a shard was to answer is in the table, each row once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import reader
from dsvl_pipeline.table.schema import LOGICAL_KEY, is_among, without_pages
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.verify import Problem, check_documents, check_keys


def problems_of(
    plan: ShardPlan, snapshot: Snapshot, *, num_shards: int, stale: pa.Table
) -> list[Problem]:
    """Compare a shard's work, once it is done, with what is committed.

    The number of rows does not tell where there are documents. A node that dies takes pages along
    that were listed; the second attempt may list others, as the document's store answers this time
    or does not, and rows that follow in the same block then get lost, or come twice.

    Args:
        plan: Of the shard; its work files are still there.
        snapshot: Of the table.
        num_shards: Of the table.
        stale: Logical keys of committed rows that are about to leave it.
    """
    with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
        read = partial(work_files.read, key=plan.work_key, columns=list(LOGICAL_KEY))
        wanted = without_pages(pa.concat_tables(threads.map(read, plan.work_files)))
    rows = reader.committed_keys(snapshot, plan.shard, (*LOGICAL_KEY, "num_pages"))
    rows = rows.filter(pc.invert(is_among(rows, stale)))
    rows = rows.filter(is_among(without_pages(rows), wanted))
    lost = wanted.filter(pc.invert(is_among(wanted, without_pages(rows))))
    return [
        *(
            Problem(where=f"row {row['row_id']}, prompt {row['prompt_id']}", what="has no answer")
            for row in lost.to_pylist()
        ),
        *check_keys(rows, plan.shard, num_shards),
        *check_documents(rows, ()),
    ]
