"""Products of few rows in eight bits: what counts is how fast the weights are read.

The libraries' kernels for scales by row have tiles of 128 outputs. With 4096 outputs that is work
for 32 of an H200's 132 multiprocessors, and a step of few rows takes twice the time of reading its
weights. Here tiles have 64 outputs. Where even so there are fewer of them than multiprocessors, two
programs share a tile's sums; the one that finishes last adds both up, always in the same order.

Letters: ``T`` rows, ``K`` their width, ``N`` outputs.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_N, _BLOCK_K = 64, 256
# Rows up to which it beats the library, by the number of parts.
_MOST_ROWS = {1: 64, 2: 128}


@triton.jit(do_not_specialize=["NUM_ROWS"])
def _few_rows(
    x,
    weight,
    x_scale,
    weight_scale,
    bias,
    out,
    parts,
    counters,
    NUM_ROWS,
    WIDTH,
    NUM_OUT,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """``[BLOCK_N, ROWS]``: the tensor cores' tall side takes the weights, the short one rows."""
    tile, part = tl.program_id(0), tl.program_id(1)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK_K)
    in_n, in_row = n < NUM_OUT, row < NUM_ROWS
    num_blocks = tl.cdiv(WIDTH, BLOCK_K)
    first, end = num_blocks * part // PARTS, num_blocks * (part + 1) // PARTS
    total = tl.zeros((BLOCK_N, ROWS), dtype=tl.float32)
    for block in range(first, end):
        column = block * BLOCK_K + k
        in_k = column < WIDTH
        a = tl.load(
            weight + n.to(tl.int64)[:, None] * WIDTH + column[None, :],
            mask=in_n[:, None] & in_k[None, :],
            other=0.0,
        )
        b = tl.load(
            x + row[:, None] * WIDTH + column[None, :],
            mask=in_row[:, None] & in_k[None, :],
            other=0.0,
        )
        total = tl.dot(a, b.T, total)
    if PARTS > 1:
        # Each part as it lies in registers: [tiles, PARTS, BLOCK_N, ROWS].
        inside = tl.arange(0, BLOCK_N)[:, None] * ROWS + row[None, :]
        own = parts + (tile * PARTS + part) * BLOCK_N * ROWS
        tl.store(own + inside, total)
        tl.debug_barrier()  # all of it is written before it counts
        is_last = tl.atomic_add(counters + tile, 1, sem="acq_rel") == PARTS - 1
        if is_last:
            tl.store(counters + tile, 0)  # for the next product
            total = tl.zeros((BLOCK_N, ROWS), dtype=tl.float32)
            for other in tl.static_range(PARTS):
                there = parts + (tile * PARTS + other) * BLOCK_N * ROWS
                total += tl.load(there + inside, cache_modifier=".cg")
            _store(total, x_scale, weight_scale, bias, out, n, row, in_n, in_row, NUM_OUT, HAS_BIAS)
    else:
        _store(total, x_scale, weight_scale, bias, out, n, row, in_n, in_row, NUM_OUT, HAS_BIAS)


@triton.jit
def _store(
    total,
    x_scale,
    weight_scale,
    bias,
    out,
    n,
    row,
    in_n,
    in_row,
    NUM_OUT,
    HAS_BIAS: tl.constexpr,
):
    total *= tl.load(weight_scale + n, mask=in_n, other=0.0)[:, None]
    total *= tl.load(x_scale + row, mask=in_row, other=0.0)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    place = row.to(tl.int64)[None, :] * NUM_OUT + n[:, None]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=in_n[:, None] & in_row[None, :])


def takes(num_rows: int, num_out: int, device: torch.device) -> bool:
    """Return whether `project_few_rows` is the faster one, as measured on an H200."""
    return 0 < num_rows <= _MOST_ROWS[_num_parts(num_out, device)]


def project_few_rows(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``[T, N]``: rows by a weight matrix; the bias is added before the sum is rounded.

    Args:
        x: ``float8_e4m3fn[T, K]``, contiguous, as many rows as `takes` allows.
        x_scale: ``float32[T, 1]``.
        weight: ``float8_e4m3fn[N, K]``, contiguous.
        weight_scale: ``float32[N, 1]``.
        bias: ``[N]``.
        dtype: Of the result.
    """
    (num_rows, width), num_out = x.shape, weight.shape[0]
    out = torch.empty(num_rows, num_out, dtype=dtype, device=x.device)
    rows = 32 if num_rows <= 32 else 64 if num_rows <= 64 else 128
    num_tiles, num_parts = triton.cdiv(num_out, _BLOCK_N), _num_parts(num_out, x.device)
    parts = counters = out  # not used
    if num_parts > 1:
        shape = (num_tiles, num_parts, _BLOCK_N, rows)
        parts = torch.empty(shape, dtype=torch.float32, device=x.device)
        counters = _counters(num_tiles, x.device)
    _few_rows[num_tiles, num_parts](
        *(x, weight, x_scale, weight_scale, out if bias is None else bias, out),
        *(parts, counters, num_rows, width, num_out),
        ROWS=rows,
        BLOCK_N=_BLOCK_N,
        BLOCK_K=_BLOCK_K,
        PARTS=num_parts,
        HAS_BIAS=bias is not None,
        num_warps=4,
        num_stages=4 if num_parts > 1 else 3,
    )
    return out


@cache
def _num_parts(num_out: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # the interpreter
    num_multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return 2 if triton.cdiv(num_out, _BLOCK_N) < num_multiprocessors else 1


def _counters(num_tiles: int, device: torch.device) -> Tensor:
    """Return zeros, as every product leaves them behind; those of one stream never overlap.

    A graph must not be replayed beside other products of the stream on which it was captured.
    """
    is_cuda = device.type == "cuda"
    key = num_tiles, device, torch.cuda.current_stream(device).cuda_stream if is_cuda else 0
    counters = _kept.get(key)
    if counters is None:
        counters = torch.zeros(num_tiles, dtype=torch.int32, device=device)
        # While a graph is captured, nobody but this graph writes the zeros.
        if not (is_cuda and torch.cuda.is_current_stream_capturing()):
            _kept[key] = counters
    return counters


_kept: dict[tuple[int, torch.device, int], Tensor] = {}
