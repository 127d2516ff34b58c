"""A Ray cluster on this machine whose processes a test may kill, one by one or a node at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from dsvl_pipeline.cluster.own_cluster import quick_workers
from tests.quick_ray import few_processes


class LocalCluster:
    """A head node with its own GCS, and nodes that come and go.

    Started with the environment of this process: what workers need must be there before, and
    ``RAY_TMPDIR``, a folder of its own.
    """

    def __init__(self, *, num_cpus: int = 3) -> None:
        # Ray leaves the cluster's address there, and whatever else runs on this machine joins it.
        assert "RAY_TMPDIR" in os.environ, "other people's runs would join a cluster with faults"
        with quick_workers(), few_processes():
            self._cluster = Cluster(initialize_head=True, head_node_args=_node(num_cpus))
        self.address: str = self._cluster.address

    def add_node(self, num_cpus: int = 2) -> Any:
        """Start a second raylet with an object store and workers of its own."""
        with quick_workers():
            return self._cluster.add_node(**_node(num_cpus))

    def kill_node(self, node: Any) -> None:
        """Let a node vanish: its raylet and all its workers, by SIGKILL."""
        (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
        for pid in [raylet, *list(_workers(raylet))]:
            _kill(pid)
        self._cluster.remove_node(node, allow_graceful=False)

    def workers(self, pattern: str) -> list[int]:
        """Process ids of workers whose current task's name matches."""
        found = []
        for node in self._cluster.list_all_nodes():
            for info in node.all_processes["raylet"]:
                for pid in _workers(info.process.pid):
                    name = _name(pid)
                    if name.startswith("ray::") and re.search(pattern, name):
                        found.append(pid)
        return found

    def close(self) -> None:
        self._cluster.shutdown()


def kill_worker(pid: int) -> None:
    """Kill a worker that `LocalCluster.workers` found; it may have ended meanwhile."""
    if _name(pid).startswith("ray::"):
        _kill(pid)


def _node(num_cpus: int) -> dict[str, Any]:
    return {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": 200 << 20,
    }


def _workers(raylet: int) -> Iterator[int]:
    """Give all that a raylet started, its agents too, and what they were forked from."""
    mark = f"\0RAY_RAYLET_PID={raylet}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in b"\0" + (process / "environ").read_bytes():
                yield int(process.name)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until(condition: Any, limit_s: float) -> bool:
    """Wait until something is true, and tell whether it came to be."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
