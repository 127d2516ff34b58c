"""How a run ended, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from dsvl_pipeline.cluster.metrics import busy_share
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.run.progress import Tracker
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import reader


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


def summarize(prepared: Prepared, progress: Tracker) -> RunSummary:
    """Sum up a run that has ended."""
    job = prepared.config.job
    counts = reader.counts(prepared.writer.snapshot)
    # Rows that stay although nobody asks for them any more are not this job's failures.
    num_staying = sum(shard.num_staying for shard in prepared.shards)
    num_staying_errors = sum(shard.num_staying_errors for shard in prepared.shards)
    num_rows, num_errors = counts.total - num_staying, counts.errors - num_staying_errors
    return RunSummary(
        run_id=prepared.manifest.run_id,
        output_uri=objects.redact(job.output.uri),
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
