"""Rotary position embedding, in the halves layout of the LLaMA checkpoints.

Letters: ``T`` tokens, ``H`` heads, ``D`` width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """Give the angle per position of every channel pair: ``float32[D / 2]`` on the CPU.

    Always made on the CPU: a GPU's power function rounds differently, and at position 4096 that
    would be a visible angle.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return 1.0 / (theta**exponents)


def rotary_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Give cosine and sine of every token's angles.

    Args:
        positions: ``int64[T]``.
        frequencies: ``float32[D / 2]``.

    Returns:
        Two ``float32[T, D / 2]``, good for every layer.
    """
    angles = positions[:, None].to(torch.float32) * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys: channel ``i`` of a head pairs with channel ``i + D / 2``.

    Args:
        x: ``[T, H, D]``.
        cos: ``float32[T, D / 2]``.
        sin: ``float32[T, D / 2]``.

    Returns:
        ``[T, H, D]`` in the dtype of ``x``, computed in float32.

    Source: Su et al. 2021, arXiv:2104.09864; the halves layout is that of transformers.
    """
    first, second = x.to(torch.float32).chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # (T, 1, D / 2): the same for every head
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)
