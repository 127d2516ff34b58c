"""Rows to e4m3, alone and as the last part of other kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def row_peak(peak):
    """The magnitude that a row is scaled by: never so small that 448 over it overflows."""
    return tl.maximum(peak, 1e-30)


@triton.jit
def store_scaled(x, peak, values, scale, row, start, column, mask):
    """Store a part of a row as e4m3, and (from every part, the same) the row's scale.

    Args:
        x: float32 ``[BLOCK]``, rounded to the dtype that the row had.
        peak: From `row_peak`, over the whole row.
        values: Where rows go.
        scale: Where scales go, one a row.
        row: Which row, as int64.
        start: Where the row begins in ``values``.
        column: ``[BLOCK]``, which columns.
        mask: ``[BLOCK]``, which of them there are.
    """
    # div_rn: the plain division is off by a bit, and values on a border would fall elsewhere
    inverse = tl.div_rn(448.0, peak)
    tl.store(values + start + column, (x * inverse).to(tl.float8e4nv), mask=mask)
    tl.store(scale + row, peak * (1.0 / 448.0))


@triton.jit
def _quantize_rows(x, values, scale, stride, WIDTH, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    wide = tl.load(x + row * stride + column, mask=mask, other=0.0).to(tl.float32)
    peak = row_peak(tl.max(tl.abs(wide), 0))
    store_scaled(wide, peak, values, scale, row, row * WIDTH, column, mask)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and round ``[T, K]``; return ``float8_e4m3fn[T, K]`` and ``float32[T, 1]``."""
    num_rows, width = x.shape
    values, scale = empty_quantized(x, width)
    if num_rows:
        block = triton.next_power_of_2(width)
        _quantize_rows[(num_rows,)](
            x, values, scale, x.stride(0), width, BLOCK=block, num_warps=num_warps(block)
        )
    return values, scale


def empty_quantized(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Take memory for as many rows as ``x`` has, and their scales."""
    values = torch.empty(x.shape[0], width, dtype=torch.float8_e4m3fn, device=x.device)
    return values, torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)


def num_warps(block: int) -> int:
    """Return the warps for sixteen values a thread: two loads at once, and no register spilled."""
    return min(max(block // 512, 1), 16)
