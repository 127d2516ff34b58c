"""The blocks that leave a running Dataset, and an end to it when nobody wants more of them."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import ray
from ray.data import Dataset

from dsvl_pipeline.cluster.private_ray import executors_of, forget_blocks, operators_of
from dsvl_pipeline.wording import amount

Arrived: TypeAlias = "tuple[ray.ObjectRef[pa.Table], int]"
"""A block, as a reference, and how many rows it has."""

_LONGEST_WAIT_S = 0.5
_SHUTDOWN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Where a stage of a running Dataset stands.

    Attributes:
        name: Its functions, without what Ray puts around them.
        num_blocks: Blocks that wait for it.
        num_tasks: Tasks that run; of actors calls.
        num_alive: Actors; likewise ``num_pending`` and ``num_restarting``.
    """

    name: str
    num_blocks: int
    num_tasks: int
    num_alive: int
    num_pending: int
    num_restarting: int


class Running:
    """A Dataset, and what runs it as soon as it does."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.executors = executors_of(dataset)

    def forget(self) -> None:
        """Drop what Ray keeps of each block for its statistics: a kilobyte a stage, in the driver.

        The last of each stage stays, so that there is something to sum up.
        """
        for executor in self.executors:
            for operator, _ in operators_of(executor):
                forget_blocks(operator)

    def stages(self) -> Iterator[StageState]:
        """Yield where each stage stands, from the first to the last."""
        for executor in self.executors:
            for operator, state in operators_of(executor):
                actors = operator.get_actor_info()
                # "MapBatches(read_work)->MapBatches(list_pages)"
                names = re.findall(r"\((\w+)\)", operator.name) or re.findall(
                    r"^\w+", operator.name
                )
                yield StageState(
                    name="+".join(names).lower().lstrip("_"),
                    num_blocks=state.total_enqueued_input_blocks(),
                    num_tasks=operator.num_active_tasks(),
                    num_alive=actors.running,
                    num_pending=actors.pending,
                    num_restarting=actors.restarting,
                )

    def waiting(self) -> str:
        """Return what waits for what: each stage's blocks, tasks and actors, and what is free."""
        parts = []
        for stage in self.stages():
            said = f"{amount(stage.num_blocks, 'block')} waiting, "
            said += f"{amount(stage.num_tasks, 'task')} running"
            if stage.num_alive or stage.num_pending or stage.num_restarting:
                said += (
                    f", {amount(stage.num_alive, 'actor')} alive, {stage.num_pending} pending, "
                    f"{stage.num_restarting} restarting"
                )
            if stage.num_blocks or stage.num_tasks or stage.num_pending or stage.num_restarting:
                parts.append(f"{stage.name}: {said}")
        free, there = ray.available_resources(), ray.cluster_resources()
        resources = ", ".join(
            f"{free.get(name, 0.0):g} of {there[name]:g} {name}s"
            for name in ("CPU", "GPU")
            if there.get(name)
        )
        return f"{'; '.join(parts) or 'nothing was started'}; free are {resources or 'no nodes'}"


def blocks_of(running: Running, stop: threading.Event) -> Generator[list[Arrived], None, None]:
    """Run a Dataset and yield its blocks as they come, as references, with their row counts.

    Yields an empty list twice a second when nothing came, so that the caller's deadlines are looked
    at; ends early when ``stop`` is set. However it ends, the Dataset runs no longer: close it (as
    `contextlib.closing` does), or its actors keep their CPUs and GPUs.
    """
    puller = _Puller(running)
    try:
        while not stop.is_set():
            try:
                item = puller.arrived.get(timeout=_LONGEST_WAIT_S)
            except queue.Empty:
                yield []
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        puller.close()


class _Puller:
    """Pulls a Dataset's blocks in a thread of its own, as their iterator cannot be interrupted.

    Attributes:
        arrived: What came: blocks, an error, or None at the end.
    """

    def __init__(self, running: Running) -> None:
        self.arrived: queue.Queue[list[Arrived] | BaseException | None] = queue.Queue(maxsize=256)
        self._running = running
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="results", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the Dataset, and the thread."""
        self._is_closed.set()
        for executor in self._running.executors:
            executor.shutdown(force=True)
        # It sees that nothing more comes; a thread that outlives Ray would start a cluster anew.
        self._thread.join(_SHUTDOWN_S)

    def _pull(self) -> None:
        try:
            for bundle in self._running.dataset.iter_internal_ref_bundles():
                assert not any(bundle.slices or ()), "the last stage yields whole blocks"
                self._put([(entry.ref, entry.metadata.num_rows) for entry in bundle.blocks])
                self._running.forget()
                if self._is_closed.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: list[Arrived] | BaseException | None) -> None:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self.arrived.put(item, timeout=_LONGEST_WAIT_S)
                return
