"""Attention inside images: every patch sees every patch of its image or window.

Letters: ``N`` images or windows, ``H`` heads, ``G`` edge of a square grid, ``D`` width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsvl_pipeline.ops.backend import use_triton

# Fastest first; each takes what the ones before it refuse (another dtype, an older card).
_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend_image(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without a mask, with the usual scale.

    Args:
        q: ``[N, H, L, D]``.
        k: ``[N, H, L, D]``.
        v: ``[N, H, L, D]``.

    Returns:
        ``[N, H, L, D]``.
    """
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(_BACKENDS, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v)


def attend_grid(q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Attend over a grid, with relative positions decomposed into rows and columns.

    The score of query (y, x) and key (y', x') is ``q.k / sqrt(D) + q.rel_pos_h[y - y'] +
    q.rel_pos_w[x - x']``: the relative terms use the unscaled query.

    Args:
        q: ``[N, H, G * G, D]``, row by row.
        k: ``[N, H, G * G, D]``.
        v: ``[N, H, G * G, D]``.
        rel_pos_h: ``[2 * G - 1, D]``, by row distance from ``1 - G`` to ``G - 1``.
        rel_pos_w: ``[2 * G - 1, D]``, by column distance.

    Returns:
        ``[N, G * G, H * D]``: the heads of a patch side by side.

    Source: ``SamVisionAttention``, transformers 5.23; Li et al. 2021, arXiv:2112.01526.
    """
    N, H, num_patches, D = q.shape
    G = (rel_pos_h.shape[0] + 1) // 2
    if use_triton(q, k, v, rel_pos_h, rel_pos_w) and D >= 16 and D.bit_count() == 1:
        from dsvl_pipeline.ops.kernels import image_attention as kernels

        if G <= kernels.MOST_COLUMNS:
            if not (q.stride() == k.stride() == v.stride() and q.stride(3) == 1):
                q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            return kernels.attend_grid(q, k, v, rel_pos_h, rel_pos_w)
    places = torch.arange(G, device=q.device)
    distances = places[:, None] - places[None, :] + G - 1  # (query, key)
    grid = q.view(N, H, G, G, D)
    by_row = torch.einsum("nhyxd,ykd->nhyxk", grid, rel_pos_h[distances])
    by_column = torch.einsum("nhyxd,xkd->nhyxk", grid, rel_pos_w[distances])
    bias = by_row[..., :, None] + by_column[..., None, :]  # (N, H, G, G, G, G)
    bias = bias.reshape(N, H, num_patches, num_patches)
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return found.transpose(1, 2).flatten(2)
