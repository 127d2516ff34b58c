"""Normalisation over the last dimension."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from dsvl_pipeline.ops.backend import use_triton
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows


@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, quantize: Literal[False] = False
) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, *, quantize: Literal[True]) -> Quantized: ...
@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, *, quantize: bool) -> Tensor | Quantized: ...
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, quantize: bool = False
) -> Tensor | Quantized:
    """Divide every row by its root mean square, in float32, then multiply by the weight.

    Args:
        x: ``[T, D]``, rows contiguous.
        weight: ``[D]``, in the dtype of ``x``.
        eps: Added to the mean square.
        quantize: Whether the result is rounded on to e4m3.

    Returns:
        ``[T, D]`` in the dtype of ``x``. The weight is applied after rounding to it, as upstream.

    Source: ``LlamaRMSNorm``, transformers 5.23; Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    if use_triton(x, weight):
        return _launch(x, None, weight, eps, quantize=quantize)[1]
    wide = x.to(torch.float32)
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normed = weight * scaled.to(x.dtype)
    return quantize_rows(normed) if quantize else normed


@overload
def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, quantize: Literal[False] = False
) -> tuple[Tensor, Tensor]: ...
@overload
def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, quantize: Literal[True]
) -> tuple[Tensor, Quantized]: ...
@overload
def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, quantize: bool
) -> tuple[Tensor, Tensor | Quantized]: ...
def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, quantize: bool = False
) -> tuple[Tensor, Tensor | Quantized]:
    """Add, and norm the sum: one pass over memory for what is two.

    Args:
        x: ``[T, D]``, rows contiguous.
        delta: ``[T, D]`` in the same dtype, rows contiguous.
        weight: As for `rms_norm`, like the rest.
        eps: Added to the mean square.
        quantize: Whether the norm is rounded on to e4m3; the sum is not.

    Returns:
        ``x + delta`` and its norm.
    """
    if use_triton(x, delta, weight):
        return _launch(x, delta, weight, eps, quantize=quantize)
    total = x + delta
    return total, rms_norm(total, weight, eps, quantize=quantize)


def _launch(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, *, quantize: bool
) -> tuple[Tensor, Tensor | Quantized]:
    from dsvl_pipeline.ops.kernels import norms as kernels

    total, normed, scale = kernels.rms_norm(x, delta, weight, eps, quantize=quantize)
    if scale is None:
        return total, normed
    return total, Quantized(values=normed, scale=scale, dtype=x.dtype)
