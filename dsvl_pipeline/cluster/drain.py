"""Nodes that are being drained: whose blocks must be saved, and when the driver must end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.experimental import get_local_object_locations

from dsvl_pipeline.cluster.private_ray import draining_nodes
from dsvl_pipeline.errors import RunStoppedError

_LOOK_EVERY_S = 1.0
_LAST_PARTS_S = 20.0


class DrainingNodes:
    """What Ray knows of nodes that got SIGTERM or a notice of preemption.

    Ray Data gives engines on such a node no more batches, and they finish those they have. Their
    answers are another matter: blocks above 100 KB lie in the node's own object store, and with
    the node they are gone and computed again, unless they have become a part by then.
    """

    def __init__(self) -> None:
        self._looked_s = 0.0
        self._deadlines_ms: dict[str, int] = {}

    def look(self) -> None:
        """Ask Ray, at most once a second.

        Raises:
            RunStoppedError: The driver's own node goes, and there is just time for the last parts.
        """
        if time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return
        self._deadlines_ms = draining_nodes()
        self._looked_s = time.monotonic()
        deadline_ms = self._deadlines_ms.get(ray.get_runtime_context().get_node_id())
        # A drain without a deadline has 0: nobody knows how much time there is.
        if deadline_ms is not None and deadline_ms / 1000 - time.time() < _LAST_PARTS_S:
            raise RunStoppedError(
                "stopped: the driver's node is being drained; what was complete is committed, and "
                "the same command goes on where there is another node"
            )

    def hold(self, blocks: Sequence[ray.ObjectRef[pa.Table]]) -> bool:
        """Return whether one of these blocks lies on such nodes alone."""
        if not self._deadlines_ms:
            return False
        places: dict[Any, dict[str, Any]] = get_local_object_locations(list(blocks))
        return any(
            nodes and all(node in self._deadlines_ms for node in nodes)
            for nodes in (place["node_ids"] for place in places.values())
        )
