"""A Ray that starts in less time, and so do its workers: most of a small run is nothing else.

``python -m tests.quick_ray run job.yaml`` is ``dsvl run job.yaml`` on such a Ray, and ``python -m
tests.quick_ray ray start`` a node of that kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray._private import services
from ray._private.node import Node

from dsvl_pipeline.cluster import own_cluster

_FORKED_WORKERS = Path(__file__).with_name("start_worker.py")
_NO_AGENT = Path(__file__).with_name("no_agent.py")
_AGENTS = {
    Path(services.RAY_PATH, "dashboard", "agent.py"): "dashboard",
    Path(services.RAY_PATH, "_private", "runtime_env", "agent", "main.py"): "runtime_env",
}


@contextmanager
def quick_ray(*, has_metrics: bool = False) -> Iterator[None]:
    """Let a Ray that is started meanwhile be quick; `tests.start_worker` starts its workers."""
    forked = patch.object(own_cluster, "_START_WORKER", _FORKED_WORKERS)
    with few_processes(has_metrics=has_metrics), forked, own_cluster.quick_workers():
        yield


@contextmanager
def few_processes(*, has_metrics: bool = False) -> Iterator[None]:
    """Leave out what Ray starts for autoscalers and people: no dashboard, no workers' words.

    Agents are left out as well (see `tests.no_agent`), unless the metrics that they offer are read.
    """
    extras = ("start_monitor", "start_api_server", "start_log_monitor")
    start = services.start_ray_process if has_metrics else _start_without_agents
    with (
        patch.multiple(Node, **dict.fromkeys(extras, _do_without)),
        patch.object(services, "start_ray_process", start),
    ):
        yield


def _start_without_agents(
    command: list[str], *arguments: Any, _start: Any = services.start_ray_process, **named: Any
) -> Any:
    """Start a process of Ray; a raylet is given another command for its agents."""
    for path, agent in _AGENTS.items():
        quick = f"-I -S {_NO_AGENT} {agent}"
        command = [
            word.replace(str(path), quick) if "_agent_command=" in word else word
            for word in command
        ]
    return _start(command, *arguments, **named)


def _do_without(node: Node, **_: Any) -> None:
    """Start nothing."""


if __name__ == "__main__":
    if sys.argv[1] == "ray":
        from ray.scripts.scripts import main

        sys.argv.pop(1)
    else:
        from dsvl_pipeline.cli.main import main

    with quick_ray():
        sys.exit(main())
