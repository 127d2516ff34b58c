"""A run: plan, then one bounded Dataset per shard, with results committed as they come.

The driver holds references to blocks, never their rows. It groups the blocks that leave the graph
into parts of a bounded number of rows and a bounded age, lets a small task write each part, and
commits the receipts. Nothing else is state: killed at any point, the same command resumes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from os import PathLike
from typing import Any

from dsvl_pipeline.cluster.metrics import Meter
from dsvl_pipeline.cluster.ray_errors import explaining, under_way
from dsvl_pipeline.errors import DsvlError, RunStoppedError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.reading import as_job
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.run.display import display
from dsvl_pipeline.run.limits import ErrorLimits
from dsvl_pipeline.run.prepare import Prepared, prepare
from dsvl_pipeline.run.progress import ProgressSink, Tracker
from dsvl_pipeline.run.shard import ShardRun
from dsvl_pipeline.run.signals import stop_on_signals
from dsvl_pipeline.run.summary import RunSummary, summarize
from dsvl_pipeline.run.watch import EngineWatch
from dsvl_pipeline.table.lineage import RunStatus
from dsvl_pipeline.table.vacuum import list_parts, unlogged


def run_job(
    job: JobConfig | Mapping[str, Any] | str | PathLike[str],
    *,
    limit: int | None = None,
    fresh: bool = False,
    redrive: Redrive | None = None,
    progress: bool = True,
    on_progress: ProgressSink | None = None,
) -> RunSummary:
    """Run a job to its end; run it again to compute only what is missing or changed.

    Args:
        job: A job, the path of its file, or what such a file holds as a dictionary.
        limit: Read only this many inputs (a document counts as one).
        fresh: Compute every row again; old answers are replaced as new ones are committed.
        redrive: Answer only some rows of the table, again.
        progress: Whether to show how it goes: in a notebook a line that changes, elsewhere lines
            on standard error.
        on_progress: Called instead a few times a second, on the calling thread.

    Raises:
        ConfigError: The job, its input or its output is wrong; nothing was started.
        RunStoppedError: The run could not go on, or was told to stop; what was committed is safe.
    """
    checked = as_job(job)
    tracker = Tracker(on_progress or (display() if progress else lambda _: None))
    tracker.show("planning")
    with stop_on_signals() as stop, explaining():
        prepared = prepare(checked, limit=limit, is_fresh=fresh, stop=stop, redrive=redrive)
        stop.is_abrupt = False
        with under_way():
            _run_shards(prepared, tracker, stop)
    return summarize(prepared, tracker)


def _run_shards(prepared: Prepared, progress: Tracker, stop: threading.Event) -> None:
    """Run shard after shard, and leave word of how it ended."""
    expected: dict[int, int] = {}
    status: RunStatus = "failed"
    meter = Meter(prepared.config.job.name)
    try:
        meter.begin(num_shards=len(prepared.shards), num_orphans=_num_orphans(prepared))
        watch = EngineWatch(progress, prepared.scale.replicas, meter)
        limits = ErrorLimits(prepared.config.job)
        progress.expect(prepared.shards)
        for shard in prepared.shards:
            num_rows = ShardRun(prepared, shard, progress, stop, watch, limits).run()
            expected[shard.shard] = shard.num_staying + shard.num_up_to_date + num_rows
            meter.finish_shard(len(prepared.shards) - len(expected))
        watch.close()
        progress.show("committing")
        status = "done"
    except (RunStoppedError, KeyboardInterrupt):
        status = "stopped"
        raise
    finally:
        meter.end()
        try:
            figures = _figures(prepared, progress)
            prepared.end(status, expected, progress.engine, figures, stop=stop)
        finally:
            prepared.close()


def _figures(prepared: Prepared, progress: Tracker) -> dict[str, float]:
    """Return what `prediction` needs of this run; nothing unless all of the plan was done."""
    inputs = sum(shard.num_rows for shard in prepared.shards)
    if not inputs or progress.remaining:
        return {}
    return {
        "rows": progress.done,
        "inputs": inputs,
        "seconds": progress.elapsed_s,
        "replicas": prepared.scale.replicas,
        "num_shards": sum(1 for shard in prepared.shards if shard.num_rows),
    }


def _num_orphans(prepared: Prepared) -> int:
    """Count parts that killed runs left; the plan asked the store for much more than this."""
    try:
        return sum(1 for _ in unlogged(list_parts(prepared.writer.uri), prepared.writer.snapshot))
    except DsvlError:  # a number is no reason for a run to fail
        return 0
