"""Root mean square norm of rows, with the addition before it and the rounding to e4m3 after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.quantize import empty_quantized, num_warps, row_peak, store_scaled


@triton.jit
def _rms_norm(
    x,
    delta,
    weight,
    total,
    out,
    scale,
    stride,
    delta_stride,
    eps,
    WIDTH,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    QUANTIZE: tl.constexpr,
):
    """One row a program. Rounds wherever torch's operations, one by one, would."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    dtype = x.dtype.element_ty
    wide = tl.load(x + row * stride + column, mask=mask, other=0.0).to(tl.float32)
    gain = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        added = tl.load(delta + row * delta_stride + column, mask=mask, other=0.0)
        rounded = (wide + added.to(tl.float32)).to(dtype)
        tl.store(total + row * WIDTH + column, rounded, mask=mask)
        wide = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    scaled = (wide * inverse).to(dtype).to(tl.float32)
    normed = (scaled * gain).to(dtype)
    if QUANTIZE:
        wide = normed.to(tl.float32)
        peak = row_peak(tl.max(tl.abs(wide), 0))
        store_scaled(wide, peak, out, scale, row, row * WIDTH, column, mask)
    else:
        tl.store(out + row * WIDTH + column, normed, mask=mask)


def rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, *, quantize: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give ``x + delta`` (``x`` itself without one), its norm, and the norm's scales if quantised.

    Args:
        x: ``[T, D]``, rows contiguous.
        delta: The same; None adds nothing.
        weight: ``[D]``.
        eps: Added to the mean square.
        quantize: Whether the norm becomes ``float8_e4m3fn[T, D]``.
    """
    num_rows, width = x.shape
    total = x if delta is None else torch.empty_like(x, memory_format=torch.contiguous_format)
    out: Tensor
    scale: Tensor | None
    if quantize:
        out, scale = empty_quantized(x, width)
    else:
        out, scale = torch.empty_like(x, memory_format=torch.contiguous_format), None
    if num_rows:
        block = triton.next_power_of_2(width)
        _rms_norm[(num_rows,)](
            x,
            x if delta is None else delta,
            weight,
            total,
            out,
            out if scale is None else scale,
            x.stride(0),
            0 if delta is None else delta.stride(0),
            eps,
            width,
            BLOCK=block,
            ADD=delta is not None,
            QUANTIZE=quantize,
            num_warps=num_warps(block),
        )
    return total, out, scale
