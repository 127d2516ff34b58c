"""A run: plan, then one bounded Dataset per shard, with results committed as they come.

The driver holds references to blocks, never their rows. It groups the blocks that leave the graph
into parts of a bounded number of rows and a bounded age, lets a small task write each part, and
commits the receipts. Nothing else is state: killed at any point, the same command resumes.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from dsvl_pipeline.table.writer import TableWriter
from ray.data import Dataset
from ray.exceptions import RayError

from dsvl_pipeline import storage
from dsvl_pipeline.config import JobConfig
from dsvl_pipeline.errors import DsvlError, RunStoppedError
from dsvl_pipeline.pipeline import graph
from dsvl_pipeline.pipeline.plan import ShardPlan
from dsvl_pipeline.pipeline.prepare import Prepared, prepare
from dsvl_pipeline.pipeline.progress import ProgressSink, Tracker
from dsvl_pipeline.table import part, reader
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.schema import is_among

_COMMIT_EVERY_S = 10.0
_MAX_PARTS_BEING_WRITTEN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended.

    Attributes:
        run_id: Of this run; empty when there was nothing to do.
        output_uri: The table.
        rows_up_to_date: Rows of the table that this run did not have to answer again.
        rows_new: Rows it answered.
        ok: Rows of the whole table by status; likewise ``degraded`` and ``errors``.
        error_codes: Rows of the whole table by error code.
        seconds: Wall-clock time.
        is_random_weights: Whether the checkpoint was never trained, so that answers are noise.
        exit_code: 0, or 1 when more than ``max_error_fraction`` of the rows failed.
    """

    run_id: str
    output_uri: str
    rows_up_to_date: int
    rows_new: int
    ok: int
    degraded: int
    errors: int
    error_codes: dict[str, int]
    seconds: float
    is_random_weights: bool
    exit_code: int


def run_job(
    job: JobConfig,
    *,
    limit: int | None = None,
    fresh: bool = False,
    on_progress: ProgressSink | None = None,
) -> RunSummary:
    """Run a job to its end; run it again to compute only what is missing or changed.

    Args:
        job: From `config.load_job`.
        limit: Read only this many inputs (a document counts as one).
        fresh: Compute every row again; old answers are replaced as new ones are committed.
        on_progress: Called a few times a second, on the calling thread.

    Raises:
        ConfigError: The job, its input or its output is wrong; nothing was started.
        RunStoppedError: The run could not go on, or was told to stop; what was committed is safe.
    """
    progress = Tracker(on_progress or (lambda _: None))
    progress.show("planning")
    with contextlib.ExitStack() as stack:
        prepared = prepare(job, limit=limit, is_fresh=fresh)
        stack.callback(prepared.close)
        stop = stack.enter_context(_stop_on_signals())
        run = _Run(prepared, progress, stop)
        progress.expect(prepared.shards)
        for shard in prepared.shards:
            if shard.num_rows or shard.stale.num_rows:
                run.shard(shard)
        progress.show("committing")
        prepared.finish("done")
    return _summary(prepared, progress)


class _Run:
    """The loop that turns blocks into parts and parts into commits."""

    def __init__(self, prepared: Prepared, progress: Tracker, stop: threading.Event) -> None:
        self._prepared = prepared
        self._writer: TableWriter = prepared.writer
        self._progress = progress
        self._stop = stop
        self._write = ray.remote(num_cpus=0, max_retries=3)(_write_part)
        output = prepared.config.job.output
        self._rows_per_part, self._seconds_per_part = output.rows_per_part, output.seconds_per_part

    def shard(self, plan: ShardPlan) -> None:
        """Answer one shard's missing rows and commit them."""
        state = _ShardState(plan=plan, stale=plan.stale)
        try:
            if plan.num_rows:
                dataset = graph.build(plan, self._prepared.config, self._prepared.scale)
                for blocks in _results(dataset, self._stop):
                    for reference, num_rows in blocks:
                        state.add(reference, num_rows)
                        self._progress.add(num_rows)
                    self._advance(state)
                    self._progress.show("running")
        except RayError as error:
            raise _explained(error) from error
        finally:
            # Also after Ctrl-C or a failure: what is complete is worth committing.
            self._flush(state)
        if self._stop.is_set():
            raise RunStoppedError(
                "stopped by a signal; what was complete is committed, and the same command goes on"
            )
        self._writer.commit([], superseded=state.stale)

    def _advance(self, state: _ShardState) -> None:
        if state.num_rows >= self._rows_per_part or state.age_s >= self._seconds_per_part:
            self._start_part(state)
        if len(state.writing) > _MAX_PARTS_BEING_WRITTEN:
            ray.wait(state.writing, num_returns=1)
        done, state.writing = (
            ray.wait(state.writing, num_returns=max(1, len(state.writing)), timeout=0)
            if state.writing
            else ([], [])
        )
        state.receipts += ray.get(done)
        if state.receipts and time.monotonic() - state.committed_s > _COMMIT_EVERY_S:
            self._commit(state)

    def _flush(self, state: _ShardState) -> None:
        self._progress.show("committing")
        self._start_part(state)
        state.receipts += ray.get(state.writing)
        state.writing = []
        self._commit(state)

    def _start_part(self, state: _ShardState) -> None:
        if state.blocks:
            prepared = self._prepared
            reference = self._write.remote(
                self._writer.uri,
                state.plan.shard,
                self._writer.lease_number,
                prepared.metadata,
                *state.blocks,
            )
            state.writing.append(reference)
            state.blocks, state.num_rows = [], 0

    def _commit(self, state: _ShardState) -> None:
        if not state.receipts:
            return
        replaced = state.stale
        if replaced.num_rows:
            replaced = state.take_stale(self._writer.uri)
        self._writer.commit(state.receipts, superseded=replaced)
        self._progress.failed(sum(r.num_errors for r in state.receipts))
        state.receipts, state.committed_s = [], time.monotonic()


@dataclass(slots=True, kw_only=True)
class _ShardState:
    """Blocks not yet in a part, parts not yet written, receipts not yet committed."""

    plan: ShardPlan
    stale: pa.Table
    blocks: list[Any] = field(default_factory=list)
    num_rows: int = 0
    oldest_s: float = 0.0
    writing: list[Any] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    committed_s: float = field(default_factory=time.monotonic)

    def add(self, reference: Any, num_rows: int) -> None:
        if not self.blocks:
            self.oldest_s = time.monotonic()
        self.blocks.append(reference)
        self.num_rows += num_rows

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.oldest_s if self.blocks else 0.0

    def take_stale(self, table_uri: str) -> pa.Table:
        """The stale rows that the new parts replace; they leave with the same log entry."""
        parts = [part.read_keys(table_uri, receipt.path) for receipt in self.receipts]
        is_replaced = is_among(self.stale, pa.concat_tables(parts))
        replaced = self.stale.filter(is_replaced)
        self.stale = self.stale.filter(pc.invert(is_replaced))
        return replaced


def _write_part(
    table_uri: str, shard: int, lease: int, metadata: dict[str, str], *blocks: pa.Table
) -> Receipt:
    """Runs as a Ray task. A retry writes another part; only the one with a receipt counts."""
    rows = pa.concat_tables(blocks)
    return part.write_part(table_uri, rows, shard=shard, lease=lease, metadata=metadata)


def _results(
    dataset: Dataset, stop: threading.Event
) -> Iterator[list[tuple[ray.ObjectRef[pa.Table], int]]]:
    """The blocks that leave the graph, as references, with their row counts.

    Yields an empty list twice a second when nothing came, so that the caller's clocks go on; ends
    early when ``stop`` is set.
    """
    arrived: queue.Queue[Any] = queue.Queue(maxsize=256)

    def pull() -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                assert not any(bundle.slices or ()), "the last stage yields whole blocks"
                arrived.put([(entry.ref, entry.metadata.num_rows) for entry in bundle.blocks])
                if stop.is_set():
                    break
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=pull, name="results", daemon=True).start()
    while not stop.is_set():
        try:
            item = arrived.get(timeout=0.5)
        except queue.Empty:
            yield []
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def _explained(error: RayError) -> DsvlError:
    """What broke, in one line: a cause of our own making keeps its class and message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DsvlError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    last = str(error).strip().splitlines()[-1]
    return RunStoppedError(
        f"Ray could not go on: {type(error).__name__}: {last}; what was committed is safe, "
        "run the same command again to go on"
    )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(prepared: Prepared, progress: Tracker) -> RunSummary:
    job = prepared.config.job
    counts = reader.counts(job.output.uri)
    total = counts.ok + counts.degraded + counts.errors
    return RunSummary(
        run_id=prepared.run_id,
        output_uri=storage.redact(job.output.uri),
        rows_up_to_date=sum(shard.num_up_to_date for shard in prepared.shards),
        rows_new=progress.done,
        ok=counts.ok,
        degraded=counts.degraded,
        errors=counts.errors,
        error_codes=counts.error_codes,
        seconds=progress.elapsed_s,
        is_random_weights=prepared.is_random_weights,
        exit_code=int(counts.errors > job.max_error_fraction * total),
    )
