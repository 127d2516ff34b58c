"""Runs of shards without a cluster: parts are made where they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa

from dsvl_pipeline.cluster.part_tasks import Target, WrittenPart, write_part
from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.run.limits import ErrorLimits
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.run.progress import Tracker
from dsvl_pipeline.run.shard import ShardRun

_NO_LEDGER = SimpleNamespace(spent=SimpleNamespace(remote=lambda *_: None))


class LocalParts:
    """Makes each part at once, of blocks that are tables and no references.

    Attributes:
        ended: What `ready` gives next, which a test may add to.
        num_started: Calls of `start`.
    """

    def __init__(self, target: Target, answers: pa.Table | None) -> None:
        self.ended: list[WrittenPart | DsvlError] = []
        self.num_started = 0
        self._target = target
        self._answers = answers

    @property
    def num_running(self) -> int:
        return len(self.ended)

    def start(self, blocks: Sequence[Any]) -> None:
        self.num_started += 1
        self.ended.append(write_part(self._target, _NO_LEDGER, self._answers, *blocks))

    def ready(self, wait_s: float) -> list[WrittenPart | DsvlError]:
        num = 1 if wait_s else len(self.ended)
        ended, self.ended = self.ended[:num], self.ended[num:]
        return ended


def local_run(
    prepared: Prepared, plan: ShardPlan, stop: threading.Event | None = None
) -> tuple[ShardRun, LocalParts]:
    """Give the run of a shard, and what makes its parts."""
    meter = SimpleNamespace(receipt=lambda part: None, commit=lambda parts, seconds: None)
    watch = cast(Any, SimpleNamespace(meter=meter, end_shard=lambda: None))
    made = list[LocalParts]()

    def make(target: Target, _: Any, answers: pa.Table | None) -> LocalParts:
        made.append(LocalParts(target, answers))
        return made[0]

    run = ShardRun(
        prepared,
        plan,
        Tracker(lambda _: None),
        stop or threading.Event(),
        watch,
        ErrorLimits(prepared.config.job),
        make_parts=make,
    )
    return run, made[0]
