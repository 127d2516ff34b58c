"""SwiGLU's gate, with the rounding to e4m3 after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.quantize import empty_quantized, num_warps, row_peak, store_scaled

_BLOCK = 1024


@triton.jit
def _gated(gate_up, start, column, mask, WIDTH):
    """SiLU of the gate, times the other half; rounded where torch's two operations would."""
    gate = tl.load(gate_up + start + column, mask=mask, other=0.0)
    up = tl.load(gate_up + start + WIDTH + column, mask=mask, other=0.0)
    wide = gate.to(tl.float32)
    active = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    return (active.to(tl.float32) * up.to(tl.float32)).to(gate.dtype)


@triton.jit
def _silu_mul(gate_up, out, stride, WIDTH, BLOCK: tl.constexpr):
    """A part of a row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < WIDTH
    found = _gated(gate_up, row * stride, column, mask, WIDTH)
    tl.store(out + row * WIDTH + column, found, mask=mask)


@triton.jit
def _silu_mul_quantize(
    gate_up, values, scale, stride, WIDTH, FIRST: tl.constexpr, REST: tl.constexpr
):
    """One row a program, in two parts: blocks are powers of two, 11008 would idle in 16384."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.arange(0, FIRST)
    in_first = first < WIDTH
    x = _gated(gate_up, row * stride, first, in_first, WIDTH).to(tl.float32)
    peak = tl.max(tl.abs(x), 0)
    if REST > 0:
        rest = FIRST + tl.arange(0, REST)
        in_rest = rest < WIDTH
        y = _gated(gate_up, row * stride, rest, in_rest, WIDTH).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.abs(y), 0))
        store_scaled(y, row_peak(peak), values, scale, row, row * WIDTH, rest, in_rest)
    store_scaled(x, row_peak(peak), values, scale, row, row * WIDTH, first, in_first)


def silu_mul(gate_up: Tensor) -> Tensor:
    """Gate ``[T, 2 * I]``, rows contiguous; return ``[T, I]``."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        block = min(_BLOCK, triton.next_power_of_2(width))
        grid = (num_rows, triton.cdiv(width, block))
        _silu_mul[grid](gate_up, out, gate_up.stride(0), width, BLOCK=block, num_warps=4)
    return out


def silu_mul_quantize(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same; return ``float8_e4m3fn[T, I]`` and its scales ``float32[T, 1]``."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    values, scale = empty_quantized(gate_up, width)
    if num_rows:
        first = triton.next_power_of_2(width + 1) // 2  # the largest that fits
        rest = triton.next_power_of_2(width - first) if width > first else 0
        _silu_mul_quantize[(num_rows,)](
            gate_up,
            values,
            scale,
            gate_up.stride(0),
            width,
            FIRST=first,
            REST=rest,
            num_warps=num_warps(first),
        )
    return values, scale
