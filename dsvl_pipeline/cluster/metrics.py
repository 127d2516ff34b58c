"""What a run tells Prometheus: `METRICS`, on the Ray metrics endpoint of the driver's node.

The driver speaks for all: it has the receipts, and the ledger tells it what engines and tasks did.
So a job has one series of each metric, and none is lost with a node. Ray puts ``ray_`` before every
name, and keeps a gauge for two report intervals (20 s) after the process that set it is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ray.util import metrics

from dsvl_pipeline.cluster.private_ray import count
from dsvl_pipeline.cluster.stream import StageState
from dsvl_pipeline.codes import STATUSES
from dsvl_pipeline.table.part import Receipt

JOB_LABEL = "dsvl_job"  # Prometheus has a `job` of its own
STAGES = ("list_pages", "preprocess", "vision", "prefill", "decode", "write", "commit")
_BUSY = ("vision", "prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric; every one has the label `JOB_LABEL` as well."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    labels: tuple[str, ...] = ()


def _counter(name: str, about: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", about=about, labels=labels)


def _gauge(name: str, about: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", about=about, labels=labels)


METRICS = (
    _counter("dsvl_rows_total", "Rows committed, by status: ok, degraded, error", "status"),
    _counter("dsvl_row_codes_total", "Committed rows with an error code, by code", "code"),
    _counter("dsvl_tokens_total", "Tokens of the engines, by kind: prompt, new", "kind"),
    _counter("dsvl_stage_seconds_total", "Seconds that a stage's tasks took, added up", "stage"),
    _counter("dsvl_engine_busy_seconds_total", "Seconds that engines computed on their device"),
    _counter("dsvl_engine_up_seconds_total", "Seconds that engines were there, loaded"),
    _counter("dsvl_engine_restarts_total", "Engines in the place of one whose process died"),
    _counter("dsvl_parts_total", "Parts written: receipts that reached the driver"),
    _counter("dsvl_commits_total", "Commits to the table's log"),
    _gauge("dsvl_last_receipt_timestamp_seconds", "When a receipt came, at first the run's start"),
    _gauge("dsvl_shards_remaining", "Shards that the run has not finished; 0 after its end"),
    _gauge("dsvl_rows_remaining", "Rows without an answer; of unopened documents a lower bound"),
    _gauge("dsvl_orphan_parts", "Parts that no commit names, left by killed runs, at the start"),
    _gauge("dsvl_engines", "Engines by state: alive, pending, restarting", "state"),
    _gauge("dsvl_queue_blocks", "Blocks that wait for a stage", "stage"),
    _gauge("dsvl_running_tasks", "Tasks of a stage that run; of engines batches", "stage"),
)


class Meter:
    """The metrics of one run. Not thread-safe; none of its methods waits or fails a run.

    Args:
        job_name: Value of the label `JOB_LABEL`.
    """

    def __init__(self, job_name: str) -> None:
        self._counters: dict[str, metrics.Counter] = {}
        self._gauges: dict[str, metrics.Gauge] = {}
        self._engine: Mapping[str, float] = {}
        self._standing: dict[str, float] = {}
        self._codes: set[str] = set()
        self._stages: set[str] = set()
        for one in METRICS:
            labels, job = (JOB_LABEL, *one.labels), {JOB_LABEL: job_name}
            if one.kind == "counter":
                self._counters[one.name] = metrics.Counter(one.name, one.about, labels)
                self._counters[one.name].set_default_tags(job)
            else:
                self._gauges[one.name] = metrics.Gauge(one.name, one.about, labels)
                self._gauges[one.name].set_default_tags(job)
        # A counter that begins with its first event hides that event from rate() and increase().
        for status in STATUSES:
            self._count("dsvl_rows_total", 0, status=status)
        for kind in ("prompt", "new"):
            self._count("dsvl_tokens_total", 0, kind=kind)
        for stage in STAGES:
            self._count("dsvl_stage_seconds_total", 0, stage=stage)
        for one in METRICS:
            if one.kind == "counter" and not one.labels:
                self._count(one.name, 0)

    def begin(self, *, num_shards: int, num_orphans: int) -> None:
        """Record that the run starts."""
        self._standing = {
            "dsvl_last_receipt_timestamp_seconds": time.time(),
            "dsvl_shards_remaining": num_shards,
            "dsvl_orphan_parts": num_orphans,
        }
        self.look({}, (), rows_remaining=0)

    def receipt(self, part: Receipt) -> None:
        """Record that a part was written."""
        self._count("dsvl_parts_total", 1)
        self._standing["dsvl_last_receipt_timestamp_seconds"] = time.time()

    def commit(self, parts: Iterable[Receipt], seconds: float) -> None:
        """Record that parts were committed, and how long that took."""
        self._count("dsvl_commits_total", 1)
        self._count("dsvl_stage_seconds_total", seconds, stage="commit")
        for part in parts:
            for status, rows in part.statuses.items():
                self._count("dsvl_rows_total", rows, status=status)
            for code, rows in part.error_codes.items():
                self._codes.add(code)
                self._count("dsvl_row_codes_total", rows, code=code)

    def look(
        self, engine: Mapping[str, float], stages: Iterable[StageState], *, rows_remaining: int
    ) -> None:
        """Record where the run stands.

        Args:
            engine: From `Ledger.report`: totals since the start of the run.
            stages: Of the running shard.
            rows_remaining: Of the run.
        """
        self._standing["dsvl_rows_remaining"] = rows_remaining
        # Again and again: Ray may forget a series that was set only once.
        for name, value in self._standing.items():
            self._set(name, value)
        for code in self._codes:
            self._count("dsvl_row_codes_total", 0, code=code)
        if engine:
            self._count_engine(engine)
        engines = {"alive": 0, "pending": 0, "restarting": 0}
        ended = dict.fromkeys(self._stages, (0, 0))
        now = {}
        for stage in stages:
            now[stage.name] = stage.num_blocks, stage.num_tasks
            engines["alive"] += stage.num_alive
            engines["pending"] += stage.num_pending
            engines["restarting"] += stage.num_restarting
        self._stages |= now.keys()
        for name, (num_blocks, num_tasks) in (ended | now).items():
            self._set("dsvl_queue_blocks", num_blocks, stage=name)
            self._set("dsvl_running_tasks", num_tasks, stage=name)
        for state, number in engines.items():
            self._set("dsvl_engines", number, state=state)

    def finish_shard(self, num_remaining: int) -> None:
        """Record how many shards there are still to do."""
        self._standing["dsvl_shards_remaining"] = num_remaining

    def end(self) -> None:
        """Record that the run is over, well or not: its process may go on."""
        self.finish_shard(0)
        self.look({}, (), rows_remaining=0)

    def _count_engine(self, engine: Mapping[str, float]) -> None:
        for kind in ("prompt", "new"):
            self._count("dsvl_tokens_total", self._more(engine, f"{kind}_tokens"), kind=kind)
        for stage in STAGES:
            seconds = self._more(engine, f"{stage}_s")
            self._count("dsvl_stage_seconds_total", seconds, stage=stage)
            if stage in _BUSY:
                self._count("dsvl_engine_busy_seconds_total", seconds)
        self._count("dsvl_engine_up_seconds_total", self._more(engine, "up_s"))
        self._count("dsvl_engine_restarts_total", self._more(engine, "restarts"))
        self._engine = engine

    def _more(self, engine: Mapping[str, float], name: str) -> float:
        """Return what came since the last look; a ledger that died begins again from nothing."""
        now, before = engine.get(name, 0.0), self._engine.get(name, 0.0)
        return now - before if now >= before else now

    def _count(self, name: str, value: float, **labels: str) -> None:
        count(self._counters[name], value, labels)

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._gauges[name].set(value, labels)


def busy_share(engine: Mapping[str, float]) -> float | None:
    """Return the share of the engines' time in which their devices computed; None if unknown.

    Args:
        engine: From `Ledger.report`.
    """
    busy_s, up_s = sum(engine.get(f"{name}_s", 0.0) for name in _BUSY), engine.get("up_s", 0.0)
    return busy_s / up_s if busy_s and up_s else None
