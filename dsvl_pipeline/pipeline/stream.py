"""The blocks that leave a running Dataset, and an end to it when nobody wants more of them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset

_LONGEST_WAIT_S = 0.5
_SHUTDOWN_S = 30.0


def blocks_of(
    dataset: Dataset, stop: threading.Event
) -> Generator[list[tuple[ray.ObjectRef[pa.Table], int]], None, None]:
    """Run a Dataset and give its blocks as they come, as references, with their row counts.

    Yields an empty list twice a second when nothing came, so that the caller's clocks go on; ends
    early when ``stop`` is set. However it ends, the Dataset runs no longer: close it (as
    `contextlib.closing` does), or its actors keep their CPUs and GPUs.
    """
    arrived: queue.Queue[Any] = queue.Queue(maxsize=256)
    is_closed = threading.Event()
    executors = _executors_of(dataset)

    def put(item: Any) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                arrived.put(item, timeout=_LONGEST_WAIT_S)
                return

    def pull() -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                assert not any(bundle.slices or ()), "the last stage yields whole blocks"
                put([(entry.ref, entry.metadata.num_rows) for entry in bundle.blocks])
                if is_closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    puller = threading.Thread(target=pull, name="results", daemon=True)
    puller.start()
    try:
        while not stop.is_set():
            try:
                item = arrived.get(timeout=_LONGEST_WAIT_S)
            except queue.Empty:
                yield []
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_closed.set()
        for executor in executors:
            executor.shutdown(force=True)
        # It sees that nothing more comes; a thread that outlives Ray would start a cluster anew.
        puller.join(_SHUTDOWN_S)


def _executors_of(dataset: Dataset) -> list[Any]:
    """A list that is to hold what runs the Dataset, as soon as it does.

    Ray Data stops an executor when its iterator is dropped, but ours is in the hands of a thread
    that waits inside it; only the executor itself can be told to end.
    """
    executors: list[Any] = []
    create = dataset._create_executor

    def remember() -> Any:
        executors.append(create())
        return executors[-1]

    dataset._create_executor = remember  # type: ignore[method-assign]
    return executors
