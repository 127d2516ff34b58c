"""Parts that are written again with the answers that they have: what their rows carry changed."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from dsvl_pipeline.plan import rewriting
from dsvl_pipeline.plan.shard_plan import Rewrite, ShardPlan
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.table import part
from dsvl_pipeline.table.part import Receipt

_AT_ONCE = 4  # each has a part in memory


def rewrite(
    prepared: Prepared,
    plan: ShardPlan,
    *,
    retrying: Callable[[Callable[[], Any]], Any],
    stop: threading.Event,
) -> Iterator[None]:
    """Write old answers again whose carried values, or types of columns, are not as wanted.

    Args:
        prepared: The run.
        plan: Of the shard.
        retrying: Does something on a store that may be away.
        stop: Ends it between two commits.

    Yields:
        Before each commit, each of some parts.
    """
    for group, found in itertools.groupby(plan.rewrites, lambda one: one.group):
        if stop.is_set():
            return
        yield
        values, uri = None, plan.values_files.get(group)
        if uri is not None:
            values = retrying(functools.partial(work_files.read, uri, plan.work_key))
        parts = list(found)
        receipts = retrying(functools.partial(_rewrite, prepared, plan.shard, parts, values))
        paths = [one.path for one in parts]
        retrying(functools.partial(prepared.writer.replace, receipts, paths, are_kept=True))


def _rewrite(
    prepared: Prepared, shard: int, parts: Sequence[Rewrite], values: pa.Table | None
) -> list[Receipt]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        written = threads.map(lambda one: _rewrite_one(prepared, shard, one, values), parts)
        return list(itertools.chain.from_iterable(written))


def _rewrite_one(
    prepared: Prepared, shard: int, one: Rewrite, values: pa.Table | None
) -> list[Receipt]:
    writer, job = prepared.writer, prepared.config.job
    rows = part.read_part(writer.uri, writer.snapshot.parts[one.path], is_leaving=True)
    new = values.slice(one.start, one.num_rows) if values is not None else None
    return [
        part.write_part(
            writer.uri,
            rows_of_one,
            shard=shard,
            lease=writer.lease_number,
            metadata=part.part_metadata(rows),
        )
        for rows_of_one in rewriting.rewritten(one.path, rows, new, prepared.schema, job)
    ]
