"""CUDA graphs of the decode step: hundreds of kernels for one launch.

Letters: ``B`` rows of a step, ``R`` rows of a graph, ``W`` integers that describe a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Every graph costs some memory and a little time once; a padded row costs next to nothing.
_SMALL_SIZES = (1, 2, 4, 8)
_STEP = 16


class DecodeGraphs:
    """Replay ``decode`` for as many rows as a step has, padded to one of a few sizes."""

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        *,
        padding: Tensor,
        max_rows: int,
    ) -> None:
        """Prepare; each graph is captured the first time its size comes up.

        Args:
            decode: Rows ``int32[R, W]`` on the device to logits ``[R, V]``.
            padding: ``int32[W]`` a row that does no harm.
            max_rows: Most rows of a step.
        """
        self._decode = decode
        self._padding = padding
        self._rows = torch.empty(
            round_up(max_rows), len(padding), dtype=torch.int32, device=padding.device
        )
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, V]``, good until the next call.

        Args:
            rows: ``int32[B, W]`` in pinned memory.
        """
        count, size = len(rows), round_up(len(rows))
        self._rows[:count].copy_(rows, non_blocking=True)
        self._rows[count:size] = self._padding
        if size in self._graphs:
            graph, logits = self._graphs[size]
            graph.replay()
            return logits[:count]
        # Run as it is the first time: that loads and tunes all that a capture could not.
        result = self._decode(self._rows[:size])
        self._capture(size)
        return result[:count]

    def _capture(self, size: int) -> None:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile. `torch.cuda.graph` would also collect garbage.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            logits = self._decode(self._rows[:size])
        finally:
            graph.capture_end()
        self._graphs[size] = (graph, logits)


def round_up(num_rows: int) -> int:
    """Return the size of the graph for a number of rows."""
    for size in _SMALL_SIZES:
        if num_rows <= size:
            return size
    return -(-num_rows // _STEP) * _STEP
