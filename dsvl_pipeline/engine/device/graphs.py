"""CUDA graphs of a step: hundreds of kernels for one launch.

Letters: ``B`` rows of a step, ``R`` rows of a graph, ``W`` integers that describe a row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

# Every graph costs some memory and a little time once; a padded row costs next to nothing.
_SMALL_SIZES = (1, 2, 4, 8)
_STEP = 16


class StepGraphs:
    """Replay ``run`` for as many rows as a step has, padded to one of a few sizes."""

    def __init__(
        self,
        run: Callable[[Tensor, bool], Tensor],
        *,
        max_rows: int,
        width: int,
        device: torch.device,
    ) -> None:
        """Prepare; each graph is captured the first time its size comes up.

        Args:
            run: Rows ``int32[R, W]`` on the device, and whether some of them share pages, to what
                comes out. That is kept for each graph: it should be small.
            max_rows: Most rows of a step.
            width: ``W``.
            device: A GPU.
        """
        self._run = run
        self._rows = torch.empty(round_up(max_rows), width, dtype=torch.int32, device=device)
        self._graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, rows: Tensor, is_shared: bool) -> Tensor:
        """Return what comes out, good until the next call.

        Args:
            rows: ``int32[R, W]`` in pinned memory; ``R`` is a `round_up`.
            is_shared: Whether some rows share pages.
        """
        size = len(rows)
        self._rows[:size].copy_(rows, non_blocking=True)
        known = self._graphs.get((size, is_shared))
        if known is not None:
            graph, result = known
            graph.replay()
            return result
        # Run as it is the first time: that loads and tunes all that a capture could not.
        result = self._run(self._rows[:size], is_shared)
        if (size, is_shared) not in self._graphs:
            captured = self._capture(size, is_shared)
            if captured is None:
                # A capture cannot ask the allocator to give up what it keeps for later.
                torch.cuda.empty_cache()
                captured = self._capture(size, is_shared)
            self._graphs[size, is_shared] = captured
        return result

    def _capture(self, size: int, is_shared: bool) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        """Return a graph and what comes out of it; None where there is no memory for one."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile. `torch.cuda.graph` would also collect garbage.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            result = self._run(self._rows[:size], is_shared)
        except torch.OutOfMemoryError:
            with suppress(RuntimeError):  # that the capture was not finished
                graph.capture_end()
            return None
        graph.capture_end()
        return graph, result


def round_up(num_rows: int) -> int:
    """Return the size of the graph for a number of rows."""
    for size in _SMALL_SIZES:
        if num_rows <= size:
            return size
    return -(-num_rows // _STEP) * _STEP
