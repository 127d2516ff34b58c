"""Pictures to patches: the convolution without overlap that both towers begin with.

Letters: ``N`` images, ``S`` edge in pixels, ``P`` edge of a patch, ``G`` patches along an edge,
``D`` width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def embed_patches(pixel_values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project each patch.

    Args:
        pixel_values: ``[N, 3, S, S]``.
        weight: ``[D, 3, P, P]``.
        bias: ``[D]``.

    Returns:
        ``[N, G, G, D]``, contiguous; pixels beyond whole patches are left out.
    """
    if pixel_values.is_cuda:
        # to a library's convolution three channels are an odd shape, and its results would have
        # to be turned from channels first
        return _project_patches(pixel_values, weight, bias)
    # in float32 on a CPU to the last bit what upstream computes
    return F.conv2d(pixel_values, weight, bias, weight.shape[2]).permute(0, 2, 3, 1).contiguous()


def _project_patches(pixel_values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    N, C, S, _ = pixel_values.shape
    P = weight.shape[2]
    G = S // P
    whole = pixel_values[:, :, : G * P, : G * P]
    tiles = whole.reshape(N, C, G, P, G, P).permute(0, 2, 4, 1, 3, 5)  # (N, G, G, C, P, P)
    return F.linear(tiles.flatten(3), weight.flatten(1), bias)
