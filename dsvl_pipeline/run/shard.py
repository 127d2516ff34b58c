"""One shard on its way: blocks into parts, parts into receipts, receipts into commits."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa

from dsvl_pipeline.cluster import graph, stream
from dsvl_pipeline.cluster.drain import DrainingNodes
from dsvl_pipeline.cluster.part_tasks import Block, PartTasks, Target, WrittenPart
from dsvl_pipeline.cluster.ray_errors import explaining
from dsvl_pipeline.errors import DsvlError, RunStoppedError
from dsvl_pipeline.job.sections import OutputConfig
from dsvl_pipeline.plan.redrive import IS_ANSWER
from dsvl_pipeline.plan.shard_plan import ShardPlan, read_stale
from dsvl_pipeline.run import completeness
from dsvl_pipeline.run.commits import Commits
from dsvl_pipeline.run.limits import ErrorLimits, Stall
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.run.progress import Tracker
from dsvl_pipeline.run.rewrites import rewrite
from dsvl_pipeline.run.watch import EngineWatch
from dsvl_pipeline.store.retry import with_retries
from dsvl_pipeline.table.schema import LOGICAL_KEY
from dsvl_pipeline.wording import amount

_MAX_PARTS_BEING_WRITTEN = 8
_FLUSH_S = 300.0
_SAVE_EVERY_S = 2.0
_MOST_NAMED = 3


class Parts(Protocol):
    """Makes parts of blocks: `PartTasks`, or what a test has in its place."""

    @property
    def num_running(self) -> int: ...

    def start(self, blocks: Sequence[Block]) -> None: ...

    def ready(self, wait_s: float) -> list[WrittenPart | DsvlError]: ...


class OpenPart:
    """Blocks that are to become a part.

    Attributes:
        blocks: References to them.
        num_rows: In all of them.
        since_s: When the first of them came, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.num_rows = 0
        self.since_s = 0.0

    def add(self, block: Block, num_rows: int) -> None:
        """Take one more block."""
        if not self.blocks:
            self.since_s = time.monotonic()
        self.blocks.append(block)
        self.num_rows += num_rows

    def is_due(self, output: OutputConfig, draining: DrainingNodes) -> bool:
        """Return whether the part is full or old enough, or in danger where it lies."""
        age_s = time.monotonic() - self.since_s
        # Half of the time for the part to fill, a quarter each to write it and for its commit.
        return (
            self.num_rows >= output.rows_per_part
            or (bool(self.blocks) and age_s >= output.seconds_per_part / 2)
            or (age_s >= _SAVE_EVERY_S and draining.hold(self.blocks))
        )


class ShardRun:
    """The run of one shard, from its old rows to its last commit.

    Args:
        prepared: The run.
        plan: What is missing in the shard.
        progress: Of the run.
        stop: Set by signals.
        watch: Of the run's engines.
        limits: Of the run's errors.
        make_parts: What makes parts: tasks on the cluster, but for tests.
    """

    def __init__(
        self,
        prepared: Prepared,
        plan: ShardPlan,
        progress: Tracker,
        stop: threading.Event,
        watch: EngineWatch,
        limits: ErrorLimits,
        *,
        make_parts: Callable[[Target, EngineWatch, pa.Table | None], Parts] | None = None,
    ) -> None:
        job, writer = prepared.config.job, prepared.writer
        self._prepared = prepared
        self._plan = plan
        self._progress = progress
        self._stop = stop
        self._watch = watch
        self._limits = limits
        self._stall = Stall(job.limits.stall_timeout_s)
        self._draining = DrainingNodes()
        self._open = OpenPart()
        self._num_rows = self._num_losses = 0
        retry_for_s = job.limits.store_patience_s
        read = functools.partial(read_stale, plan)
        stale = with_retries(read, uri=writer.uri, timeout_s=retry_for_s, stop=stop)
        keys = stale.select(LOGICAL_KEY)
        self._commits = Commits(writer, keys, retry_for_s=retry_for_s, stop=stop)
        answers = keys.filter(stale[IS_ANSWER]) if IS_ANSWER in stale.column_names else None
        # The plan of a redrive takes answers for errors.
        num_answers = 0 if answers is None else answers.num_rows
        limits.allow(plan.num_retried if answers is None else stale.num_rows - num_answers)
        target = Target(
            table_uri=writer.uri,
            shard=plan.shard,
            lease=writer.lease_number,
            metadata=prepared.part_metadata,
            schema=prepared.schema,
            retry_for_s=retry_for_s,
        )
        make_parts = make_parts or _part_tasks
        self._parts = make_parts(target, watch, answers)

    def run(self) -> int:
        """Answer the shard's missing rows; return how many rows the table has for them.

        Raises:
            RunStoppedError: Ray could not go on, or a signal came; what was complete is committed.
        """
        with explaining():
            try:
                self._carry()
                if self._plan.num_rows and not self._stop.is_set():
                    self._answer()
            finally:
                # Also after Ctrl-C or a failure: what is complete is worth committing.
                self._flush()
                self._watch.end_shard()
        if self._stop.is_set():
            raise RunStoppedError(
                "stopped by a signal; what was complete is committed, and the same command goes on"
            )
        self._check_complete()
        self._commits.finish()
        return self._num_rows + self._commits.num_kept - self._num_losses

    def _carry(self) -> None:
        """Write old answers again whose carried values, or types of columns, are not as wanted.

        Before the first answer: the engines may take long, and parts that hold superseded rows
        change under way.
        """
        retrying = self._commits.retrying
        for _ in rewrite(self._prepared, self._plan, retrying=retrying, stop=self._stop):
            self._progress.show("rewriting")
            self._stall.moved()
        self._stall.moved()  # the last of them may have taken long

    def _check_complete(self) -> None:
        """Check that nothing was lost or doubled on its way through the graph.

        Raises:
            RunStoppedError: Something was.
        """
        plan, writer = self._plan, self._prepared.writer
        num_rows, found = self._num_rows, ""
        # A document is at least one row, if only an error row.
        if num_rows < plan.num_rows or (num_rows > plan.num_rows and not plan.num_documents):
            found = f"{amount(num_rows, 'row')} came out of the graph, but {plan.num_rows} went in"
        # A redrive that lost answers leaves them as they were, which may be not all pages.
        elif plan.num_documents and not self._num_losses:
            problems = self._commits.retrying(
                lambda: completeness.problems_of(
                    plan,
                    writer.snapshot,
                    num_shards=writer.num_shards,
                    stale=self._commits.stale,
                )
            )
            found = "; ".join(map(str, problems[:_MOST_NAMED]))
        if found:
            raise RunStoppedError(
                f"shard {plan.shard}: {found}; a node may have been lost, or a document replaced "
                "while it was read; run the same command again to compute the rest"
            )

    def _answer(self) -> None:
        prepared = self._prepared
        dataset = graph.build(
            self._plan, prepared.config, prepared.scale, self._watch.reports.ledger
        )
        running = stream.Running(dataset)
        with contextlib.closing(stream.blocks_of(running, self._stop)) as results:
            for blocks in results:
                for block, num_rows in blocks:
                    self._open.add(block, num_rows)
                    self._num_rows += num_rows
                    self._progress.add(num_rows)
                if blocks:
                    self._stall.moved()
                self._stall.check(running.waiting)
                self._draining.look()
                self._advance()
                self._limits.check()
                self._watch.look(running)
                self._progress.show("running" if self._num_rows else "starting")

    def _advance(self) -> None:
        """Do what is due: start a part, take receipts, commit."""
        output = self._prepared.config.job.output
        if self._open.is_due(output, self._draining):
            self._start_part()
        if self._parts.num_running:
            self._take(self._parts.ready(0))
        while self._parts.num_running > _MAX_PARTS_BEING_WRITTEN and not self._stop.is_set():
            self._take(self._parts.ready(1))
            self._stall.check(
                lambda: f"{amount(self._parts.num_running, 'part')} on the way to the table"
            )
        if self._commits.is_due(output.seconds_per_part / 4):
            self._commit()

    def _flush(self) -> None:
        """Commit what is complete.

        Raises:
            RunStoppedError: A part was not written in time.
        """
        self._start_part()
        failure: Exception | None = None
        end_s = time.monotonic() + _FLUSH_S
        try:
            while self._parts.num_running and time.monotonic() < end_s:
                try:
                    self._take(self._parts.ready(1))
                except DsvlError as error:
                    failure = error
        finally:
            self._commit()
        if failure is not None:
            raise failure
        if self._parts.num_running:
            raise RunStoppedError(
                f"shard {self._plan.shard}: {amount(self._parts.num_running, 'part')} not written "
                f"within {_FLUSH_S:g} s; is the store slow, or a node gone? Their rows run again "
                "with the same command"
            )

    def _take(self, ended: list[WrittenPart | DsvlError]) -> None:
        """Keep all the receipts there are, then raise for a part that could not be written."""
        failure: Exception | None = None
        for part in ended:
            if isinstance(part, DsvlError):
                failure = part
                continue
            losses, receipt = part.losses, part.receipt
            if losses is not None and losses.num_rows:
                self._commits.keep(losses)
                self._num_losses += losses.num_rows
                self._progress.kept += losses.num_rows
                codes = Counter(losses["error_code"].to_pylist())
                self._limits.add(losses.num_rows, losses.num_rows, codes)
            if receipt is not None:
                self._commits.add(receipt)
                self._limits.add(receipt.num_rows, receipt.num_errors, receipt.error_codes)
                self._watch.meter.receipt(receipt)
        if failure is not None:
            raise failure

    def _start_part(self) -> None:
        if self._open.blocks:
            self._parts.start(self._open.blocks)
            self._open = OpenPart()

    def _commit(self) -> None:
        begun_s = time.monotonic()
        if committed := self._commits.commit():
            self._progress.failed(sum(receipt.num_errors for receipt in committed))
            self._watch.meter.commit(committed, time.monotonic() - begun_s)


def _part_tasks(target: Target, watch: EngineWatch, answers: pa.Table | None) -> Parts:
    return PartTasks(target, watch.reports.ledger, answers)
