"""A run: plan, then one bounded Dataset per shard, with results committed as they come.

The driver holds references to blocks, never their rows. It groups the blocks that leave the graph
into parts of a bounded number of rows and a bounded age, lets a small task write each part, and
commits the receipts. Nothing else is state: killed at any point, the same command resumes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayError

from dsvl_pipeline import storage
from dsvl_pipeline.config import JobConfig
from dsvl_pipeline.errors import DsvlError, RunStoppedError
from dsvl_pipeline.pipeline import carried, complete, graph, ledger, stream, work
from dsvl_pipeline.pipeline.drain import Drains
from dsvl_pipeline.pipeline.failures import explaining, under_way
from dsvl_pipeline.pipeline.limits import ErrorLimits, Stall, check_starts
from dsvl_pipeline.pipeline.metrics import Meter, busy_share
from dsvl_pipeline.pipeline.patience import patiently
from dsvl_pipeline.pipeline.plan import Rewrite, ShardPlan, read_stale
from dsvl_pipeline.pipeline.prepare import Prepared, prepare
from dsvl_pipeline.pipeline.progress import ProgressSink, Tracker
from dsvl_pipeline.pipeline.redrive import IS_ANSWER, Redrive, is_kept, replacing
from dsvl_pipeline.pipeline.signals import stop_on_signals
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.table import part, reader
from dsvl_pipeline.table.lineage import RunStatus
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.schema import LOGICAL_KEY, is_among
from dsvl_pipeline.table.vacuum import list_parts, unlogged
from dsvl_pipeline.wording import amount

T = TypeVar("T")

_COMMIT_EVERY_S = 10.0
_MAX_PARTS_BEING_WRITTEN = 8
_FLUSH_S = 300.0
_LOOK_EVERY_S = 5.0
_LAST_WORD_S = 10.0
_SAVE_EVERY_S = 2.0
_MOST_NAMED = 3
_REWRITES_AT_ONCE = 4  # each has a part in memory
# A part, if any row goes into it, and keys and codes of errors that do not (`redrive.replacing`).
_Written: TypeAlias = tuple[Receipt | None, pa.Table | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended.

    Attributes:
        run_id: Of this run.
        output_uri: The table.
        rows_up_to_date: Rows of the table that this run did not have to answer again.
        rows_new: Rows it answered.
        rows_wanted: Rows of the table that this job asks for.
        rows_staying: Rows of the table that nobody asks for any more: those of earlier inputs.
        errors_wanted: Error rows among ``rows_wanted``; likewise ``errors_staying``.
        rows_carried: Rows among ``rows_up_to_date`` that were written again with their old answers,
            because what they carry changed.
        errors_kept: Error rows among ``rows_up_to_date``; only ``fresh`` computes them again.
        answers_kept: Rows among ``rows_new`` that a redrive could not answer, which therefore keep
            the answer that they had.
        ok: Rows of the whole table by status; likewise ``degraded`` and ``errors``.
        error_codes: Rows of the whole table by error code.
        seconds: Wall-clock time.
        engine: What the engines counted and how long they took (`ledger.total`).
        replicas: Engines.
        has_gpu: Whether each has a GPU, else CPUs.
        price: Of their time from the start of the run to its end, in ``currency``; None without a
            price in the job file. The start and the end of nodes are not in it.
        warnings: What is suspicious of the checkpoint.
        skipped: What the input's directories and globs hold beside its rows.
        exit_code: 0, or 1 when more than ``max_error_fraction`` of the rows asked for failed.
    """

    run_id: str
    output_uri: str
    rows_up_to_date: int
    rows_new: int
    rows_wanted: int
    rows_staying: int
    errors_wanted: int
    errors_staying: int
    errors_kept: int
    answers_kept: int
    ok: int
    degraded: int
    errors: int
    error_codes: dict[str, int]
    seconds: float
    engine: dict[str, float]
    exit_code: int
    rows_carried: int = 0
    replicas: int = 1
    has_gpu: bool = True
    price: float | None = None
    currency: str = "USD"
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def rows_per_s(self) -> float:
        """Over the whole run, its start included."""
        return self.rows_new / self.seconds if self.seconds else 0.0

    @property
    def gpu_busy(self) -> float | None:
        """Share of the engines' time in which their devices computed; None if unknown."""
        return busy_share(self.engine)

    @property
    def gpu_hours(self) -> float:
        """Of all engines, from the start of the run to its end; 0 where they have no GPU."""
        return self.has_gpu * self.replicas * self.seconds / 3600

    @property
    def price_per_1000_rows(self) -> float | None:
        """Of the rows that this run answered; None without a price or rows."""
        return 1000 * self.price / self.rows_new if self.price and self.rows_new else None


def run_job(
    job: JobConfig,
    *,
    limit: int | None = None,
    fresh: bool = False,
    redrive: Redrive | None = None,
    on_progress: ProgressSink | None = None,
) -> RunSummary:
    """Run a job to its end; run it again to compute only what is missing or changed.

    Args:
        job: From `config.load_job`.
        limit: Read only this many inputs (a document counts as one).
        fresh: Compute every row again; old answers are replaced as new ones are committed.
        redrive: Answer only some rows of the table, again.
        on_progress: Called a few times a second, on the calling thread.

    Raises:
        ConfigError: The job, its input or its output is wrong; nothing was started.
        RunStoppedError: The run could not go on, or was told to stop; what was committed is safe.
    """
    progress = Tracker(on_progress or (lambda _: None))
    progress.show("planning")
    with stop_on_signals() as stop, explaining():
        prepared = prepare(job, limit=limit, is_fresh=fresh, stop=stop, redrive=redrive)
        stop.is_abrupt = False
        with under_way():
            _run_shards(prepared, progress, stop)
    return _summary(prepared, progress)


def _run_shards(prepared: Prepared, progress: Tracker, stop: threading.Event) -> None:
    """Run shard after shard, and leave word of how it ended."""
    expected: dict[int, int] = {}
    status: RunStatus = "failed"
    meter = Meter(prepared.config.job.name)
    try:
        meter.begin(num_shards=len(prepared.shards), num_orphans=_num_orphans(prepared))
        books = _Books(progress, prepared.scale.replicas, meter)
        limits = ErrorLimits(prepared.config.job)
        progress.expect(prepared.shards)
        for shard in prepared.shards:
            num_rows = _ShardRun(prepared, shard, progress, stop, books, limits).run()
            expected[shard.shard] = shard.num_staying + shard.num_up_to_date + num_rows
            meter.finish_shard(len(prepared.shards) - len(expected))
        ledger.close(books.ledger)
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
    """What `prediction` needs to know of this run; nothing unless all that was planned was done."""
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
    """Parts that killed runs left; the plan asked the store for much more than this."""
    try:
        return sum(1 for _ in unlogged(list_parts(prepared.writer.uri), prepared.writer.snapshot))
    except DsvlError:  # a number is no reason for a run to fail
        return 0


class _ShardRun:
    """One shard on its way: blocks into parts, parts into receipts, receipts into commits."""

    def __init__(
        self,
        prepared: Prepared,
        plan: ShardPlan,
        progress: Tracker,
        stop: threading.Event,
        books: _Books,
        limits: ErrorLimits,
    ) -> None:
        self._prepared = prepared
        self._plan = plan
        self._progress = progress
        self._stop = stop
        self._books = books
        self._limits = limits
        self._patience_s = prepared.config.job.limits.store_patience_s
        self._stall = Stall(prepared.config.job.limits.stall_timeout_s)
        self._drains = Drains()
        self._output = prepared.config.job.output
        self._write = ray.remote(num_cpus=0, max_retries=3)(_write_part)
        stale = self._patiently(functools.partial(read_stale, plan))
        self._stale = stale.select(LOGICAL_KEY)
        self._answers: ray.ObjectRef[pa.Table] | None = None
        num_retried = plan.num_retried
        if IS_ANSWER in stale.column_names:
            answers = self._stale.filter(stale[IS_ANSWER])
            # The plan of a redrive takes answers for errors.
            num_retried = stale.num_rows - answers.num_rows
            self._answers = ray.put(answers)
        limits.allow(num_retried)
        self._blocks: list[ray.ObjectRef[pa.Table]] = []
        self._num_blocked_rows = 0
        self._oldest_s = 0.0
        self._writing: list[ray.ObjectRef[_Written]] = []
        self._receipts: list[Receipt] = []
        self._committed_s = time.monotonic()
        self._num_rows = self._num_losses = self._num_kept = 0

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
                self._books.close()
        if self._stop.is_set():
            raise RunStoppedError(
                "stopped by a signal; what was complete is committed, and the same command goes on"
            )
        self._check_complete()
        # Pages that a new version of a document lacks, errors that are gone: nothing replaces them.
        commit = self._prepared.writer.commit
        self._patiently(functools.partial(commit, [], superseded=self._stale))
        return self._num_rows + self._num_kept - self._num_losses

    def _carry(self) -> None:
        """Write old answers again whose carried values, or types of columns, are not as wanted.

        Before the first answer: the engines may take long, and parts that hold superseded rows
        change under way.
        """
        plan, writer = self._plan, self._prepared.writer
        for group, found in itertools.groupby(plan.rewrites, lambda one: one.group):
            if self._stop.is_set():
                return
            self._progress.show("rewriting")
            values, uri = None, plan.values_files.get(group)
            if uri is not None:
                values = self._patiently(functools.partial(work.read, uri, plan.work_key))
            parts = list(found)
            receipts = self._patiently(functools.partial(self._rewrite, parts, values))
            paths = [rewrite.path for rewrite in parts]
            self._patiently(functools.partial(writer.replace, receipts, paths, are_kept=True))
            self._stall.moved()

    def _rewrite(self, parts: Sequence[Rewrite], values: pa.Table | None) -> list[Receipt]:
        with ThreadPoolExecutor(_REWRITES_AT_ONCE) as threads:
            written = threads.map(lambda one: self._rewrite_one(one, values), parts)
            return list(itertools.chain.from_iterable(written))

    def _rewrite_one(self, rewrite: Rewrite, values: pa.Table | None) -> list[Receipt]:
        writer, prepared = self._prepared.writer, self._prepared
        receipt = writer.snapshot.parts[rewrite.path]
        rows = part.read_part(writer.uri, receipt, is_leaving=True)
        new = values.slice(rewrite.start, rewrite.num_rows) if values is not None else None
        job = prepared.config.job
        return [
            part.write_part(
                writer.uri,
                rows_of_one,
                shard=self._plan.shard,
                lease=writer.lease_number,
                metadata=part.part_metadata(rows),
            )
            for rows_of_one in carried.rewritten(rewrite.path, rows, new, prepared.schema, job)
        ]

    def _check_complete(self) -> None:
        """Make sure that nothing was lost or doubled on its way through the graph.

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
            problems = self._patiently(
                lambda: complete.problems_of(
                    plan, writer.snapshot, num_shards=writer.num_shards, stale=self._stale
                )
            )
            found = "; ".join(map(str, problems[:_MOST_NAMED]))
        if found:
            raise RunStoppedError(
                f"shard {plan.shard}: {found}; a node may have been lost, or a document replaced "
                "while it was read; run the same command again to compute the rest"
            )

    def _answer(self) -> None:
        dataset = graph.build(
            self._plan, self._prepared.config, self._prepared.scale, self._books.ledger
        )
        running = stream.Running(dataset)
        with contextlib.closing(stream.blocks_of(running, self._stop)) as results:
            for blocks in results:
                for block, num_rows in blocks:
                    if not self._blocks:
                        self._oldest_s = time.monotonic()
                    self._blocks.append(block)
                    self._num_blocked_rows += num_rows
                    self._num_rows += num_rows
                    self._progress.add(num_rows)
                if blocks:
                    self._stall.moved()
                self._stall.check(running.waiting)
                self._drains.look()
                self._advance()
                self._limits.check()
                self._books.look(running)
                self._progress.show("running" if self._num_rows else "starting")

    def _advance(self) -> None:
        """Do what is due: start a part, take receipts, commit."""
        age_s = time.monotonic() - self._oldest_s
        # Half of the time for the part to fill, a quarter each to write it and for its commit.
        longest_s = self._output.seconds_per_part
        if (
            self._num_blocked_rows >= self._output.rows_per_part
            or (self._blocks and age_s >= longest_s / 2)
            or (age_s >= _SAVE_EVERY_S and self._drains.hold(self._blocks))
        ):
            self._start_part()
        if self._writing:
            self._take(self._written(0))
        while len(self._writing) > _MAX_PARTS_BEING_WRITTEN and not self._stop.is_set():
            self._take(self._written(1))
            self._stall.check(
                lambda: f"{amount(len(self._writing), 'part')} on the way to the table"
            )
        if time.monotonic() - self._committed_s > min(_COMMIT_EVERY_S, longest_s / 4):
            self._commit()

    def _flush(self) -> None:
        self._start_part()
        failure: Exception | None = None
        end_s = time.monotonic() + _FLUSH_S
        try:
            while self._writing and time.monotonic() < end_s:
                try:
                    self._take(self._written(1))
                except (RayError, DsvlError) as error:
                    failure = error
        finally:
            self._commit()
        if failure is not None:
            raise failure
        if self._writing:
            raise RunStoppedError(
                f"shard {self._plan.shard}: {amount(len(self._writing), 'part')} not written "
                f"within {_FLUSH_S:g} s; is the store slow, or a node gone? Their rows run again "
                "with the same command"
            )

    def _written(self, wait_s: float) -> list[ray.ObjectRef[_Written]]:
        """Give the parts that are ready, waiting a while for the first of them."""
        num_wanted = 1 if wait_s else len(self._writing)
        done, self._writing = ray.wait(self._writing, num_returns=num_wanted, timeout=wait_s)
        return done

    def _take(self, written: list[ray.ObjectRef[_Written]]) -> None:
        """Keep all the receipts there are, then raise for a part that could not be written."""
        failure: Exception | None = None
        for part_of in written:
            try:
                receipt, losses = ray.get(part_of)
                if losses is not None and losses.num_rows:
                    self._keep(losses)
                    codes = Counter(losses["error_code"].to_pylist())
                    self._limits.add(losses.num_rows, losses.num_rows, codes)
                if receipt is not None:
                    self._receipts.append(receipt)
                    self._limits.add(receipt.num_rows, receipt.num_errors, receipt.error_codes)
                    self._books.meter.receipt(receipt)
            except (RayError, DsvlError) as error:
                failure = error
        if failure is not None:
            raise failure

    def _keep(self, losses: pa.Table) -> None:
        """Let the answers stay whose redrive failed."""
        stays = is_kept(self._stale, losses)
        self._num_losses += losses.num_rows
        self._num_kept += pc.sum(stays).as_py() or 0
        self._progress.kept += losses.num_rows
        self._stale = self._stale.filter(pc.invert(stays))

    def _start_part(self) -> None:
        if self._blocks:
            writer, metadata = self._prepared.writer, self._prepared.part_metadata
            shard, lease = self._plan.shard, writer.lease_number
            part_of = self._write.remote(
                writer.uri,
                shard,
                lease,
                metadata,
                self._patience_s,
                self._books.ledger,
                self._answers,
                self._prepared.schema,
                *self._blocks,
            )
            self._writing.append(part_of)
            self._blocks, self._num_blocked_rows = [], 0

    def _commit(self) -> None:
        if self._receipts:
            begun_s = time.monotonic()
            # A commit that failed is repeated, and must supersede the same rows.
            self._stale = self._patiently(self._commit_receipts)
            self._progress.failed(sum(receipt.num_errors for receipt in self._receipts))
            self._books.meter.commit(self._receipts, time.monotonic() - begun_s)
        self._receipts, self._committed_s = [], time.monotonic()

    def _patiently(self, do: Callable[[], T]) -> T:
        uri = self._prepared.writer.uri
        return patiently(do, uri=uri, patience_s=self._patience_s, stop=self._stop)

    def _commit_receipts(self) -> pa.Table:
        """Commit, and give the stale rows that are left."""
        writer, superseded, left = self._prepared.writer, self._stale, self._stale
        if self._stale.num_rows:
            parts = [part.read_keys(writer.uri, receipt.path) for receipt in self._receipts]
            is_replaced = is_among(self._stale, pa.concat_tables(parts))
            superseded = self._stale.filter(is_replaced)
            left = self._stale.filter(pc.invert(is_replaced))
        writer.commit(self._receipts, superseded=superseded)
        return left


class _Books:
    """The run's ledger, and a look into it now and then; what it says goes to the metrics."""

    def __init__(self, progress: Tracker, num_engines: int, meter: Meter) -> None:
        self.ledger = ledger.start()
        self.meter = meter
        self._progress = progress
        self._num_engines = num_engines
        self._looked_s = time.monotonic()
        self._asked: ray.ObjectRef[tuple[dict[str, float], int]] | None = None

    def look(self, running: stream.Running) -> None:
        """Ask for what the engines did, or take the answer; never wait.

        Raises:
            RunStoppedError: They die without answering anything.
        """
        if self._asked is None:
            if time.monotonic() - self._looked_s > _LOOK_EVERY_S:
                self._asked = self.ledger.report.remote()
        elif ray.wait([self._asked], timeout=0)[0]:
            self._progress.engine, num_starts = ray.get(self._asked)
            self._asked, self._looked_s = None, time.monotonic()
            self._measure(running.stages())
            check_starts(num_starts, self._num_engines)

    def close(self) -> None:
        """Take the last word; numbers are no reason for a run to fail."""
        with contextlib.suppress(RayError):
            asked = self.ledger.report.remote()
            self._progress.engine, _ = ray.get(asked, timeout=_LAST_WORD_S)
            self._measure(())

    def _measure(self, stages: Iterable[stream.StageState]) -> None:
        rows_remaining = self._progress.remaining
        self.meter.look(self._progress.engine, stages, rows_remaining=rows_remaining)


def _write_part(
    table_uri: str,
    shard: int,
    lease: int,
    metadata: dict[str, str],
    patience_s: float,
    books: Any,
    answers: pa.Table | None,
    schema: pa.Schema,
    *blocks: pa.Table,
) -> _Written:
    """Runs as a Ray task. A retry writes another part; only the one with a receipt counts."""
    rows, losses = pa.concat_tables(blocks), None
    if answers is not None:
        rows, lost = replacing(rows, answers)
        losses = lost.select((*LOGICAL_KEY, "error_code"))
        if not rows.num_rows:
            return None, losses
    column = pa.array([shard] * rows.num_rows, pa.int32())
    rows = rows.set_column(rows.column_names.index("shard"), "shard", column)
    rows = carried.conform(rows, schema)
    write = functools.partial(
        part.write_part, table_uri, rows, shard=shard, lease=lease, metadata=metadata
    )
    with ledger.timed(books, "write"):
        return patiently(write, uri=table_uri, patience_s=patience_s), losses


def _summary(prepared: Prepared, progress: Tracker) -> RunSummary:
    job = prepared.config.job
    counts = reader.counts(prepared.writer.snapshot)
    # Rows that stay although nobody asks for them any more are not this job's failures.
    num_staying = sum(shard.num_staying for shard in prepared.shards)
    num_staying_errors = sum(shard.num_staying_errors for shard in prepared.shards)
    num_rows, num_errors = counts.total - num_staying, counts.errors - num_staying_errors
    return RunSummary(
        run_id=prepared.manifest.run_id,
        output_uri=storage.redact(job.output.uri),
        rows_up_to_date=sum(shard.num_up_to_date for shard in prepared.shards),
        rows_new=progress.done,
        rows_wanted=num_rows,
        rows_staying=num_staying,
        errors_wanted=num_errors,
        errors_staying=num_staying_errors,
        rows_carried=sum(shard.num_changed for shard in prepared.shards),
        errors_kept=sum(shard.num_final_errors for shard in prepared.shards),
        answers_kept=progress.kept,
        ok=counts.ok,
        degraded=counts.degraded,
        errors=counts.errors,
        error_codes=counts.error_codes,
        seconds=progress.elapsed_s,
        engine=progress.engine,
        replicas=prepared.scale.replicas,
        has_gpu=prepared.scale.num_gpus > 0,
        price=job.cluster.price(prepared.scale.replicas, progress.elapsed_s),
        currency=job.cluster.currency,
        skipped=prepared.skipped,
        warnings=prepared.warnings,
        exit_code=int(num_errors + progress.kept > job.max_error_fraction * num_rows),
    )
