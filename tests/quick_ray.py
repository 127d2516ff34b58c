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

from ray._private.node import Node

from dsvl_pipeline.cluster import own_cluster

_FORKED_WORKERS = Path(__file__).with_name("start_worker.py")


@contextmanager
def quick_ray() -> Iterator[None]:
    """Let a Ray that is started meanwhile be quick; `tests.start_worker` starts its workers."""
    forked = patch.object(own_cluster, "_START_WORKER", _FORKED_WORKERS)
    with few_processes(), forked, own_cluster.quick_workers():
        yield


@contextmanager
def few_processes() -> Iterator[None]:
    """Leave out what Ray starts for autoscalers and people: no dashboard, no workers' words."""
    extras = ("start_monitor", "start_api_server", "start_log_monitor")
    with patch.multiple(Node, **dict.fromkeys(extras, _do_without)):
        yield


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
