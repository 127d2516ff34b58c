"""Rotation of queries and keys, and the way of keys and values into their pages, in one pass.

Letters as in `ops.attention`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS_PER_PROGRAM = 16  # of one token


def rotate_and_store(
    heads: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, slots: Tensor, num_heads: int
) -> Tensor:
    """Rotate queries and keys, write keys and values into one layer's pages.

    Args:
        heads: ``[T, H + 2 * Hkv, D]``, the last two dimensions contiguous; ``D`` a power of two.
        cos: ``float32[T, D / 2]``, contiguous.
        sin: Likewise.
        k: ``[num_pages, Hkv, page_size, D]``.
        v: Likewise, of the same strides.
        slots: ``int64[T]``.
        num_heads: ``H``.

    Returns:
        ``[T, H, D]``.
    """
    T, num_parts, D = heads.shape
    q = torch.empty(T, num_heads, D, dtype=heads.dtype, device=heads.device)
    PARTS = min(HEADS_PER_PROGRAM, triton.next_power_of_2(num_parts))
    _rotate_and_store_kernel[(T, triton.cdiv(num_parts, PARTS))](
        heads,
        cos,
        sin,
        q,
        k,
        v,
        slots,
        heads.stride(0),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        H=num_heads,
        HKV=k.shape[1],
        D=D,
        PAGE=k.shape[2],
        PARTS=PARTS,
        num_warps=4,
    )
    return q


@triton.jit
def _rotate_and_store_kernel(
    heads,
    cos,
    sin,
    q,
    k,
    v,
    slots,
    stride_token,
    stride_page,
    stride_head,
    stride_slot,
    H: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One program per (token, some of its heads), whether they are queries, keys or values."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = D // 2
    part, d = block * PARTS + tl.arange(0, PARTS), tl.arange(0, HALF)
    at = token * stride_token + part[:, None] * D + d[None, :]
    is_there = (part < H + 2 * HKV)[:, None]
    first = tl.load(heads + at, mask=is_there, other=0.0).to(tl.float32)
    second = tl.load(heads + at + HALF, mask=is_there, other=0.0).to(tl.float32)
    turn_cos = tl.load(cos + token * HALF + d)[None, :]
    turn_sin = tl.load(sin + token * HALF + d)[None, :]
    is_value = (part >= H + HKV)[:, None]
    left = tl.where(is_value, first, first * turn_cos - second * turn_sin)
    right = tl.where(is_value, second, second * turn_cos + first * turn_sin)

    at = token * (H * D) + part[:, None] * D + d[None, :]
    is_query = (part < H)[:, None]
    tl.store(q + at, left.to(q.dtype.element_ty), mask=is_query)
    tl.store(q + at + HALF, right.to(q.dtype.element_ty), mask=is_query)

    if k.dtype.element_ty == tl.float8e4nv:
        left, right = tl.clamp(left, -448.0, 448.0), tl.clamp(right, -448.0, 448.0)
    left, right = left.to(k.dtype.element_ty), right.to(k.dtype.element_ty)
    slot = tl.load(slots + token)
    kv_head = (part - H) % HKV
    at = slot // PAGE * stride_page + slot % PAGE * stride_slot
    at += kv_head[:, None] * stride_head + d[None, :]
    is_key = ((part >= H) & (part < H + HKV))[:, None]
    tl.store(k + at, left, mask=is_key)
    tl.store(k + at + HALF, right, mask=is_key)
    is_value = is_value & is_there
    tl.store(v + at, left, mask=is_value)
    tl.store(v + at + HALF, right, mask=is_value)
