"""Activations between two projections."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor
from torch.nn import functional as F

from dsvl_pipeline.ops.backend import use_triton
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows


@overload
def silu_mul(gate_up: Tensor, *, quantize: Literal[False] = False) -> Tensor: ...
@overload
def silu_mul(gate_up: Tensor, *, quantize: Literal[True]) -> Quantized: ...
@overload
def silu_mul(gate_up: Tensor, *, quantize: bool) -> Tensor | Quantized: ...
def silu_mul(gate_up: Tensor, *, quantize: bool = False) -> Tensor | Quantized:
    """Gate the second half of every row by the SiLU of its first half.

    Args:
        gate_up: ``[T, 2 * I]``, rows contiguous.
        quantize: Whether the result is rounded on to e4m3.

    Returns:
        ``[T, I]``.

    Source: SwiGLU, Shazeer 2020, arXiv:2002.05202.
    """
    if use_triton(gate_up):
        from dsvl_pipeline.ops.kernels import activation as kernels

        if not quantize:
            return kernels.silu_mul(gate_up)
        values, scale = kernels.silu_mul_quantize(gate_up)
        return Quantized(values=values, scale=scale, dtype=gate_up.dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    found = F.silu(gate) * up
    return quantize_rows(found) if quantize else found


def gate_mul(gate_up: Tensor, activation: Literal["gelu", "gelu_tanh", "relu"]) -> Tensor:
    """Gate as `silu_mul` does, by another activation; no released checkpoint has one."""
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "relu":
        return F.relu(gate) * up
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up
