"""Layer norm of patches, with the addition before it, read from and written to windows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.quantize import num_warps


@triton.jit
def _in_windows(image, y, x, WINDOW: tl.constexpr, COUNT: tl.constexpr):
    """Which row of ``[windows, W, W, D]`` a patch is; COUNT windows lie along an edge."""
    window = (image * COUNT + y // WINDOW) * COUNT + x // WINDOW
    return (window * WINDOW + y % WINDOW) * WINDOW + x % WINDOW


@triton.jit
def _add_layer_norm(
    x,
    delta,
    weight,
    bias,
    total,
    out,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GRID: tl.constexpr,
    EDGE: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    ADD: tl.constexpr,
):
    """One patch a program, of a grid of EDGE x EDGE: as large as x's, or padded to whole windows.

    GRID is the edge of x's grid, BEFORE and AFTER are the windows' (0 without).
    """
    place = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    row, before, after = place, place, place
    is_read = mask
    if GRID > 0:
        image, patch = place // (EDGE * EDGE), place % (EDGE * EDGE)
        patch_y, patch_x = patch // EDGE, patch % EDGE
        is_read = mask & (patch_y < GRID) & (patch_x < GRID)
        row = (image * GRID + patch_y) * GRID + patch_x
        before, after = row, row
        if BEFORE > 0:
            before = _in_windows(image, patch_y, patch_x, BEFORE, (GRID + BEFORE - 1) // BEFORE)
        if AFTER > 0:
            after = _in_windows(image, patch_y, patch_x, AFTER, EDGE // AFTER)
    wide = tl.load(x + row * WIDTH + column, mask=is_read, other=0.0).to(tl.float32)
    # before the sums, so that their way from memory overlaps with that of the row
    gain = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        added = tl.load(delta + before * WIDTH + column, mask=is_read, other=0.0)
        rounded = (wide + added.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + row * WIDTH + column, rounded, mask=is_read)
        wide = rounded.to(tl.float32)
    centred = tl.where(mask, wide - tl.sum(wide, 0) / WIDTH, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + eps)
    normed = centred * inverse * gain + shift
    normed = tl.where(is_read, normed, 0.0)  # padding is zeros behind the norm, without its bias
    tl.store(out + after * WIDTH + column, normed.to(out.dtype.element_ty), mask=mask)


def add_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    window_before: int | None,
    window_after: int | None,
) -> tuple[Tensor, Tensor]:
    """Do what `ops.image_norms.add_layer_norm` does."""
    width = x.shape[-1]
    assert x.is_contiguous(), "rows are found by their number"
    assert delta is None or delta.is_contiguous(), "rows are found by their number"
    total = x if delta is None else torch.empty_like(x)
    num_places, grid, edge = x.numel() // width, 0, 0
    out_shape = x.shape
    if window_before or window_after:
        images, grid = x.shape[0], x.shape[1]
        edge = grid
        if window_after:
            edge += -grid % window_after
            count = edge // window_after
            out_shape = torch.Size((images * count * count, window_after, window_after, width))
        num_places = images * edge * edge
    out = torch.empty(out_shape, dtype=x.dtype, device=x.device)
    if num_places:
        block = triton.next_power_of_2(width)
        _add_layer_norm[(num_places,)](
            x,
            x if delta is None else delta,
            weight,
            bias,
            total,
            out,
            eps,
            WIDTH=width,
            BLOCK=block,
            GRID=grid,
            EDGE=edge,
            BEFORE=window_before or 0,
            AFTER=window_after or 0,
            ADD=delta is not None,
            num_warps=num_warps(block),
        )
    return total, out
