"""Where a run stands, for people who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.wording import amount, duration

Phase = Literal["planning", "rewriting", "starting", "running", "committing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: What is going on.
        rows_done: Rows answered in this run, committed or about to be.
        rows_failed: Those of the committed ones that are error rows.
        rows_total: Rows this run has to answer; a lower bound while documents are unopened.
        is_total_exact: Whether ``rows_total`` is more than a bound.
        rows_per_s: Since the first result.
        eta_s: Seconds to go; None before anything can be said.
        elapsed_s: Since the start of the run.
        engine: What the engines counted a few seconds ago (`ledger.total`).
    """

    phase: Phase
    rows_done: int = 0
    rows_failed: int = 0
    rows_total: int = 0
    is_total_exact: bool = True
    rows_per_s: float = 0.0
    eta_s: float | None = None
    elapsed_s: float = 0.0
    engine: Mapping[str, float] = field(default_factory=dict)

    def describe(self) -> str:
        """Return it in words: rows done and failed, rows/s, what remains."""
        if self.phase in ("planning", "rewriting", "starting"):
            return f"{self.phase}, {duration(self.elapsed_s)}"
        about = "" if self.is_total_exact else "at least "  # pages of unopened documents
        parts = [
            f"{self.rows_done:,} of {about}{amount(self.rows_total, 'row')}",
            f"{self.rows_failed:,} failed",
        ]
        if self.rows_per_s > 0:  # 0 until a rate can be told
            parts.append(f"{self.rows_per_s:.1f} rows/s")
        engine = self.engine
        if up_s := engine.get("up_s"):  # of all engines together
            parts.append(f"{engine['new_tokens'] / up_s:,.0f} tokens/s per engine")
        if self.phase == "committing":
            parts.append("committing")
        elif self.eta_s is not None:
            parts.append(f"{duration(self.eta_s)} left")
        return ", ".join(parts)


ProgressSink = Callable[[Progress], None]


class Tracker:
    """Counts, and what they say about the time to go.

    Attributes:
        engine: See `Progress`.
        kept: Rows that keep an earlier answer, because their redrive failed.
    """

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink
        self._started_s = time.monotonic()
        self._first_result_s: float | None = None
        self._total = self._done = self._failed = 0
        self._is_total_exact = True
        self.engine: dict[str, float] = {}
        self.kept = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def done(self) -> int:
        return self._done

    @property
    def remaining(self) -> int:
        """Rows without an answer, as far as they are known."""
        return max(0, self._total - self._done)

    def expect(self, shards: Sequence[ShardPlan]) -> None:
        self._total = sum(shard.num_rows for shard in shards)
        self._is_total_exact = not any(shard.num_documents for shard in shards)
        self.show("starting")

    def add(self, num_rows: int) -> None:
        self._first_result_s = self._first_result_s or time.monotonic()
        self._done += num_rows

    def failed(self, num_rows: int) -> None:
        self._failed += num_rows

    def show(self, phase: Phase) -> None:
        running_s = time.monotonic() - (self._first_result_s or time.monotonic())
        rate = self._done / running_s if running_s > 1 else 0.0
        self._sink(
            Progress(
                phase=phase,
                rows_done=self._done,
                rows_failed=self._failed,
                rows_total=max(self._total, self._done),
                is_total_exact=self._is_total_exact,
                rows_per_s=rate,
                eta_s=self.remaining / rate if rate else None,
                elapsed_s=self.elapsed_s,
                engine=self.engine,
            )
        )
