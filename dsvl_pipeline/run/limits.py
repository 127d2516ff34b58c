"""When a run stops itself: rows that fail, engines that die, nothing that moves."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TypeAlias

from dsvl_pipeline.cluster.ray_errors import SAFE
from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.job.config import JobConfig

_STARTS_PER_ENGINE = 8
# How many, how many of them are errors, and how many have each code.
_Rows: TypeAlias = tuple[int, int, Mapping[str, int]]


class ErrorLimits:
    """Tells when so many rows fail that more of them are of no use to anybody.

    Args:
        job: Its ``limits`` and ``max_error_fraction``.
    """

    def __init__(self, job: JobConfig) -> None:
        limits = job.limits
        self._job = job
        self._num_retried = 0
        self._most = limits.stop_above_error_fraction
        if self._most is None:
            self._most = job.max_error_fraction
        self._recent: deque[_Rows] = deque()
        self._num_recent = self._num_rows = self._num_errors = 0
        self._codes: Counter[str] = Counter()

    def allow(self, num_retried: int) -> None:
        """Expect rows that had failed before, for a passing reason, and may fail again.

        As many errors of the run count for nothing.
        """
        self._num_retried += num_retried

    def add(self, num_rows: int, num_errors: int, codes: Mapping[str, int]) -> None:
        """Take rows of this run into account, and how many there are of each error code."""
        self._num_rows += num_rows
        self._num_errors += num_errors
        self._codes.update(codes)
        self._recent.append((num_rows, num_errors, codes))
        self._num_recent += num_rows
        while self._num_recent - self._recent[0][0] >= self._job.limits.window_rows:
            self._num_recent -= self._recent.popleft()[0]

    def check(self) -> None:
        """Stop a run that has gone wrong.

        Raises:
            RunStoppedError: It has.
        """
        first = self._job.limits.first_rows
        have_all_failed = self._num_errors == self._num_rows >= first + self._num_retried
        if first and have_all_failed and len(self._codes) == 1:
            (code,) = self._codes
            rows = f"all {self._num_rows:,} rows" if self._num_rows > 1 else "the one row"
            raise RunStoppedError(
                f"stopped: {rows} answered so far failed with {code!r}; {self._look()}, mend the "
                "cause, and run the same command again; with limits.first_rows: 0 it goes on all "
                f"the same; {SAFE}"
            )
        assert self._most is not None
        num_errors = sum(errors for _, errors, _ in self._recent)
        # Of the errors before these, those beyond the share that new rows may have were retried.
        new_before = max(0, self._num_rows - self._num_recent - self._num_retried)
        used = max(0, self._num_errors - num_errors - int(self._most * new_before))
        num_errors -= max(0, self._num_retried - used)
        is_full = self._num_recent >= self._job.limits.window_rows
        if is_full and num_errors > self._most * self._num_recent:
            codes: Counter[str] = Counter()
            for _, _, of_rows in self._recent:
                codes.update(of_rows)
            found = ", ".join(f"{name} {count:,}" for name, count in codes.most_common(5))
            raise RunStoppedError(
                f"stopped: {num_errors:,} of the last {self._num_recent:,} rows failed "
                f"({num_errors / self._num_recent:.1%}, at most {self._most:.1%} are allowed): "
                f"{found}; {self._look()}, mend the cause or raise "
                f"limits.stop_above_error_fraction; {SAFE}"
            )

    def _look(self) -> str:
        return f"see `dsvl failures {self._job.output.uri}`"


class Stall:
    """A watchdog: stops a run in which no row has finished for too long."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._moved_s = time.monotonic()

    def moved(self) -> None:
        """Record that something finished."""
        self._moved_s = time.monotonic()

    def check(self, waiting: Callable[[], str]) -> None:
        """Stop a run in which nothing moves.

        Args:
            waiting: Says what waits for what.

        Raises:
            RunStoppedError: Nothing has, for longer than ``limits.stall_timeout_s``.
        """
        still_s = time.monotonic() - self._moved_s
        if still_s > self._limit_s:
            raise RunStoppedError(
                f"stopped: no row has finished for {still_s:.0f} s (limits.stall_timeout_s is "
                f"{self._limit_s:g}); {waiting()}; {SAFE}"
            )


def check_starts(num_starts: int, num_engines: int) -> None:
    """Stop a run whose engines die before they answer anything.

    Raises:
        RunStoppedError: Each of them has died several times since the last answer.
    """
    if num_starts > _STARTS_PER_ENGINE * num_engines:
        raise RunStoppedError(
            f"stopped: {num_starts} engine processes died one after the other and nothing was "
            "answered; their last words stand in the log above and in Ray's worker logs; "
            f"try `dsvl generate` with the checkpoint on that machine; {SAFE}"
        )
