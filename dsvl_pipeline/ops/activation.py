"""Activations between two projections."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def silu_mul(gate_up: Tensor) -> Tensor:
    """Gate the second half of every row by the SiLU of its first half.

    Args:
        gate_up: ``[T, 2 * I]``.

    Returns:
        ``[T, I]``.

    Source: SwiGLU, Shazeer 2020, arXiv:2002.05202.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
