"""Layer norm in the image towers, with the addition before it and the way in and out of windows.

Letters: ``N`` images, ``G`` edge of a grid in patches, ``W`` edge of a window, ``D`` width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dsvl_pipeline.ops.backend import use_triton


def add_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    window_before: int | None = None,
    window_after: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Add, and norm the sum; both in grid order or in that of windows.

    One pass over memory on a GPU, unless gradients are wanted.

    Args:
        x: ``[..., D]``, contiguous; ``[N, G, G, D]`` where windows are concerned.
        delta: The same, or in windows ``[windows, W, W, D]`` as `into_windows` orders them,
            contiguous too; None adds nothing.
        weight: ``[D]``.
        bias: ``[D]``.
        eps: Added to the variance.
        window_before: ``W`` of ``delta``; None where it is in grid order.
        window_after: ``W`` of the windows that the norm is cut into; None leaves the grid.

    Returns:
        ``x + delta``, as ``x``; and its norm.
    """
    if use_triton(x, delta, weight, bias):
        from dsvl_pipeline.ops.kernels import image_norms as kernels

        return kernels.add_layer_norm(x, delta, weight, bias, eps, window_before, window_after)
    if delta is not None:
        x = x + (delta if window_before is None else out_of_windows(delta, x.shape[1]))
    normed = F.layer_norm(x, weight.shape, weight, bias, eps)
    return x, normed if window_after is None else into_windows(normed, window_after)


def into_windows(grid: Tensor, window_size: int) -> Tensor:
    """Cut ``[N, G, G, D]`` into windows ``[N * (G' / W) ** 2, W, W, D]``.

    ``G'`` is ``G`` rounded up to whole windows. The added zeros are no mask: behind the
    projection's bias they are keys and values like any other.
    """
    N, G, _, D = grid.shape
    W = window_size
    padding = -G % W
    padded = F.pad(grid, (0, 0, 0, padding, 0, padding))
    count = (G + padding) // W
    tiles = padded.view(N, count, W, count, W, D).transpose(2, 3)
    return tiles.reshape(-1, W, W, D)


def out_of_windows(windows: Tensor, grid_size: int) -> Tensor:
    """Put `into_windows` together again, without the padding: ``[N, G, G, D]``."""
    W, D = windows.shape[1], windows.shape[3]
    count = -(-grid_size // W)
    tiles = windows.view(-1, count, count, W, W, D).transpose(2, 3)
    return tiles.reshape(-1, count * W, count * W, D)[:, :grid_size, :grid_size]
