"""Batches in flight, and what engines counted: what must outlive an engine's process."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# See `Ledger.report`.
Report: TypeAlias = tuple[dict[str, float], int]
_GAUGES = frozenset(["sequences_running", "sequences_waiting", "occupancy"])


class Ledger:
    """A small actor beside the driver that knows which batches are in flight in engines.

    A batch that was begun and never ended was in an engine that died.

    Calls may come twice, late or never: a count of attempts is then off by one, and the numbers
    of an engine are those of its last call.
    """

    def __init__(self) -> None:
        self._in_flight: Counter[bytes] = Counter()
        self._stats: dict[str, Mapping[str, float]] = {}
        self._spent: dict[str, float] = {}
        self._num_starts = 0

    def begin(self, engine: str, batch_id: bytes) -> int:
        """Record that an engine begins a batch; return how many began it and never ended."""
        if engine not in self._stats:
            self._stats[engine] = {}
            self._num_starts += 1
        self._in_flight[batch_id] += 1
        return self._in_flight[batch_id] - 1

    def defer(self, batch_id: bytes) -> None:
        """Undo one `begin`: the batch has to wait, and no death counts meanwhile."""
        self._in_flight[batch_id] -= 1

    def end(self, engine: str, batch_id: bytes, stats: Mapping[str, float]) -> None:
        """Record that a batch has its answers, and the engine's statistics so far."""
        self._in_flight.pop(batch_id, None)
        self._stats[engine] = stats
        self._num_starts = 0

    def spent(self, stage: str, seconds: float) -> None:
        """Record how long a task of a CPU stage took."""
        name = f"{stage}_s"
        self._spent[name] = self._spent.get(name, 0.0) + seconds

    def report(self) -> Report:
        """Return the statistics of all engines there were (`total`), and the seconds of tasks.

        Returns:
            The sums, and how many engines have come since anything was answered.
        """
        return total(list(self._stats.values())) | self._spent, self._num_starts


def start() -> Any:
    """Start a ledger where the driver is; return its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # Should it die all the same, it comes back with empty hands, which costs a few attempts.
    actor: Any = ray.remote(Ledger)
    actor = actor.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    return actor.remote()


class Reports:
    """Reports of a ledger of its own, asked for without waiting.

    Attributes:
        ledger: Handle of the `Ledger` actor.
    """

    def __init__(self) -> None:
        self.ledger = start()
        self._asked: ray.ObjectRef[Report] | None = None

    def ask(self) -> None:
        """Ask for a report, unless one is on its way."""
        if self._asked is None:
            self._asked = self.ledger.report.remote()

    def take(self) -> Report | None:
        """Return the report that was asked for; None while it is not there."""
        if self._asked is None or not ray.wait([self._asked], timeout=0)[0]:
            return None
        asked, self._asked = self._asked, None
        report: Report = ray.get(asked)
        return report

    def last(self, limit_s: float) -> Report | None:
        """Return the last report, waited for so long; None if there is none to be had."""
        with contextlib.suppress(RayError):
            report: Report = ray.get(self.ledger.report.remote(), timeout=limit_s)
            return report
        return None

    def close(self) -> None:
        """End the ledger: workers that Ray keeps for later would keep it as well."""
        ray.kill(self.ledger)


@contextlib.contextmanager
def timed(ledger: Any, stage: str) -> Iterator[None]:
    """Record in a ledger how long the body took, if it ended well; a retry counts as well.

    Args:
        ledger: Handle of a `Ledger` actor.
        stage: Name of the seconds in `Ledger.report`, without ``_s``.
    """
    begun_s = time.monotonic()
    yield
    ledger.spent.remote(stage, time.monotonic() - begun_s)


def total(engines: list[Mapping[str, float]]) -> dict[str, float]:
    """Add up what several engines counted.

    Returns:
        Their counters and seconds by name (see `Engine.stats`), and: ``engines``, how many there
        were; ``occupancy``, the mean over decode steps; ``kv_use``, the largest share of the KV
        pages that one of them held at the end of a batch. Gauges of a moment are left out.
    """
    sums: Counter[str] = Counter()
    for stats in engines:
        sums.update({name: value for name, value in stats.items() if not _is_gauge(name)})
    totals = {name: float(value) for name, value in sums.items()} | {"engines": float(len(engines))}
    if steps := sums["decode_steps"]:
        filled = sum(stats["occupancy"] * stats["decode_steps"] for stats in engines if stats)
        totals["occupancy"] = filled / steps
    if any("kv_use" in stats for stats in engines):
        totals["kv_use"] = max(stats.get("kv_use", 0.0) for stats in engines)
    return totals


def _is_gauge(name: str) -> bool:
    return name in _GAUGES or name.startswith("kv_")
