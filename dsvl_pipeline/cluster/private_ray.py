"""All that is used of Ray's private interfaces: a later version may change them, unannounced.

Where it does, this file is mended, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray._private.utils import read_ray_address
from ray.data import Dataset
from ray.util.metrics import Counter

# Ray's own switch, which on Windows and macOS is off: without it a node's address is 127.0.0.1,
# and its servers (GCS, raylets, workers, agents, metrics) listen there alone. `_node_ip_address`
# does not do that: ray.init() replaces a loopback address by that of the network.
NETWORK_SWITCH: str = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
_LOGGERS = {
    "authentication": "ray._private.authentication",
    "packaging": "ray._private.runtime_env.packaging",
    "progress": "ray.data._internal.progress",
}


def log_errors_only(about: str) -> None:
    """Let Ray tell errors only, of ``authentication``, ``packaging`` or ``progress``."""
    logging.getLogger(_LOGGERS[about]).setLevel(logging.ERROR)


def temporary_folder() -> Path:
    """Return the folder in which Ray keeps its sessions."""
    return Path(get_default_ray_temp_dir())


def started_address() -> str | None:
    """Return the address of the cluster that `ray start` has left on this machine, if any."""
    address: str | None = read_ray_address()
    return address


@contextmanager
def setting(name: str, value: Any) -> Iterator[None]:
    """Let one of Ray's constants be another while a cluster starts.

    Where a later Ray has no such constant, nothing reads it.
    """
    names = vars(ray_constants)
    before = names.get(name)
    names[name] = value
    try:
        yield
    finally:
        names[name] = before


def draining_nodes() -> dict[str, int]:
    """Return the nodes that are about to go, and until when, in ms since 1970; 0 is unknown."""
    state: Any = ray._private.state.state  # as Ray Data's actor pools ask
    nodes: dict[str, int] = state.get_draining_nodes()
    return nodes


def task_attempt() -> int:
    """Return, in a task, how often Ray has tried it before."""
    worker: Any = ray._private.worker.global_worker
    attempt: int = worker.core_worker.get_current_task_attempt_number()
    return attempt


def num_restarts() -> int:
    """Return, in an actor, how often Ray has started it again."""
    actor = ray._private.state.actors(ray.get_runtime_context().get_actor_id())
    return int(actor["NumRestarts"]) if actor else 0


def count(counter: Counter, value: float, labels: dict[str, str]) -> None:
    """Add to a counter; also nothing, with which it should begin, and which ``inc`` refuses."""
    counter._record(value, labels)


def map_blocks(dataset: Dataset, function: Any, **options: Any) -> Dataset:
    """Map whole blocks, on GPUs as well.

    ``map_batches`` refuses GPUs without a batch size, which would join small blocks to one task;
    this is the same without that check.
    """
    mapped: Dataset = dataset.map_batches_internal(function, **options)
    return mapped


def executors_of(dataset: Dataset) -> list[Any]:
    """Return a list that will hold whatever executes a Dataset, as soon as something does.

    Ray Data stops an executor when its iterator is dropped; where that is in the hands of a thread
    that waits inside it, only the executor itself can be told to end.
    """
    executors: list[Any] = []
    create = dataset._create_executor

    def remember() -> Any:
        executors.append(create())
        return executors[-1]

    dataset._create_executor = remember  # type: ignore[method-assign]
    return executors


def operators_of(executor: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the operators that an executor runs, from the first to the last, and their states."""
    yield from (executor._topology or {}).items()


def forget_blocks(operator: Any) -> None:
    """Drop what Ray keeps of each block for statistics, a kilobyte a block, but for the last."""
    if stats := getattr(operator, "_output_blocks_stats", None):
        del stats[:-1]
