"""A look at the engines now and then, for people, for the metrics, and for whether they live."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dsvl_pipeline.cluster.ledger import Reports
from dsvl_pipeline.cluster.metrics import Meter
from dsvl_pipeline.cluster.stream import Running, StageState
from dsvl_pipeline.run.limits import check_starts
from dsvl_pipeline.run.progress import Tracker

LOOK_EVERY_S = 5.0
_LAST_WORD_S = 10.0


class EngineWatch:
    """Asks the run's ledger what the engines did, and tells it on.

    Attributes:
        reports: Of the run's ledger.
        meter: The metrics.
    """

    def __init__(self, progress: Tracker, num_engines: int, meter: Meter) -> None:
        self.reports = Reports()
        self.meter = meter
        self._progress = progress
        self._num_engines = num_engines
        self._looked_s = time.monotonic()

    def look(self, running: Running) -> None:
        """Ask for what the engines did, or take the answer; never wait.

        Raises:
            RunStoppedError: They die without answering anything.
        """
        if time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self.reports.ask()
        if report := self.reports.take():
            self._progress.engine, num_starts = report
            self._looked_s = time.monotonic()
            self._measure(running.stages())
            check_starts(num_starts, self._num_engines)

    def end_shard(self) -> None:
        """Take the last report of its engines; numbers are no reason for a run to fail."""
        if report := self.reports.last(_LAST_WORD_S):
            self._progress.engine, _ = report
            self._measure(())

    def close(self) -> None:
        """End the ledger."""
        self.reports.close()

    def _measure(self, stages: Iterable[StageState]) -> None:
        rows_remaining = self._progress.remaining
        self.meter.look(self._progress.engine, stages, rows_remaining=rows_remaining)
