"""Normalisation over the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide every row by its root mean square, in float32, then multiply by the weight.

    Args:
        x: ``[T, D]``.
        weight: ``[D]``.
        eps: Added to the mean square.

    Returns:
        ``[T, D]`` in the dtype of ``x``. The weight is applied after rounding to it, as upstream.

    Source: ``LlamaRMSNorm``, transformers 5.23; Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    wide = x.to(torch.float32)
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)
