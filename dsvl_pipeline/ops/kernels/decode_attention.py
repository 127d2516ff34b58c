"""Causal attention over KV pages for few queries of each sequence; `kernels.rotary` fills them.

Decode reads every key once and computes next to nothing: its kernel is as fast as the memory.
Letters as in `ops.attention`; scores are in base 2, see `attention_tiles`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.attention_tiles import LOG2_E, Tiles, choose_tiles, compute_type
from dsvl_pipeline.ops.kernels.online_softmax import (
    _add_keys,
    _find_keys,
    _narrow,
    _weigh,
    _write,
)
from dsvl_pipeline.ops.values import SharedPages

MOST_DECODE_ROWS = 32

DECODE = Tiles(queries=16, keys=64, num_warps=4, num_stages=3)
DECODE_FLOAT8 = Tiles(queries=16, keys=64, num_warps=4, num_stages=5)
# float32 is there for comparison: tiles of 4 bytes a value have to fit as well
DECODE_FLOAT32 = Tiles(queries=16, keys=32, num_warps=4, num_stages=2)

IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    page_table: Tensor,
    kv_lens: Tensor,
    max_query_len: int,
    scale: float,
    tiles: Tiles | None = None,
    shared: SharedPages | None = None,
) -> Tensor:
    """Attend with few queries of each sequence; return ``[T, H, D]``.

    Args:
        q: ``[T, H, D]``, at most `MOST_DECODE_ROWS` of a sequence for each head of ``k``.
        k: ``[num_pages, Hkv, page_size, D]``, one layer's; page size and ``D`` powers of two
            from 16 on.
        v: Likewise, of the same strides.
        query_starts: As in `PackedInputs`, as are the next three.
        page_table: See there.
        kv_lens: See there.
        max_query_len: See there.
        scale: Factor of the scores.
        tiles: Instead of the ones above.
        shared: Pages that sequences have in common; the limit of rows then holds for a group.
    """
    tiles = tiles or choose_tiles(q, k, DECODE, DECODE_FLOAT8, DECODE_FLOAT32)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    constants = _constants(q, k, tiles, max_query_len, shared)
    if constants["IS_FLOAT8"]:
        k, v = k.view(torch.int16), v.view(torch.int16)
    if shared is None:
        groups, num_programs = (kv_lens, kv_lens), kv_lens.shape[0]  # not read
    else:
        groups = (shared.group_starts, shared.shared_lens)
        num_programs = shared.shared_lens.shape[0]
    strides = (*q.stride()[:2], out.stride(0), *k.stride()[:3], page_table.stride(0))
    _decode_kernel[(num_programs, k.shape[1])](
        *(q, k, v, out, query_starts, page_table, kv_lens, *groups, scale * LOG2_E, *strides),
        **constants,
    )
    return out


def _constants(
    q: Tensor, k: Tensor, tiles: Tiles, max_query_len: int, shared: SharedPages | None
) -> dict[str, Any]:
    """Return what the kernel is compiled for."""
    is_float8 = k.dtype == torch.float8_e4m3fn and q.dtype != torch.float32
    group, page_size = q.shape[1] // k.shape[1], k.shape[2]
    num_rows = max_query_len * group * (1 if shared is None else shared.max_group_size)
    return {
        "GROUP": group,
        "D": q.shape[2],
        "PAGE": page_size,
        "ROWS": max(tiles.queries, triton.next_power_of_2(num_rows)),
        "KEYS": min(page_size, tiles.keys),
        "COMPUTE": compute_type(q, k),
        # half the channels are still a matrix unit's 16
        "IS_FLOAT8": is_float8 and q.shape[2] >= 32,
        "IS_SHARED": shared is not None,
        "MOST_QUERIES": 0 if shared is None else max_query_len,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


# Other addresses and strides of these are no reason to compile again.
_ANY_VALUE = (
    *("query_starts", "page_table", "kv_lens", "stride_table"),
    *("group_starts", "shared_lens"),
)


@triton.jit(do_not_specialize=_ANY_VALUE)
def _decode_kernel(
    q,
    k,
    v,
    out,
    query_starts,
    page_table,
    kv_lens,
    group_starts,
    shared_lens,
    scale,
    stride_query,
    stride_query_head,
    stride_out,
    stride_page,
    stride_head,
    stride_slot,
    stride_table,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    COMPUTE: tl.constexpr,
    IS_FLOAT8: tl.constexpr,
    IS_SHARED: tl.constexpr,
    MOST_QUERIES: tl.constexpr,
):
    """One program per (sequence, key head): its queries' heads are the rows of one tile.

    Matrix units take no fewer than 16 rows, and reading the keys costs the same for all of them.
    So with ``IS_SHARED`` the rows are those of several sequences, ``MOST_QUERIES`` for each: the
    pages that they have in common are read once, then each one's own.
    """
    kv_head = tl.program_id(1)
    row, d = tl.arange(0, ROWS), tl.arange(0, D)
    head = kv_head * GROUP + row % GROUP
    if IS_SHARED:
        sequence = tl.load(group_starts + tl.program_id(0))
        num_members = tl.load(group_starts + tl.program_id(0) + 1) - sequence
        member, query = row // (GROUP * MOST_QUERIES), row // GROUP % MOST_QUERIES
        is_member = member < num_members
        start = tl.load(query_starts + sequence + member, mask=is_member, other=0)
        end = tl.load(query_starts + sequence + member + 1, mask=is_member, other=0)
        kv_len = tl.load(kv_lens + sequence + member, mask=is_member, other=0)
    else:
        sequence = tl.program_id(0)
        query = row // GROUP
        start = tl.load(query_starts + sequence)
        end = tl.load(query_starts + sequence + 1)
        kv_len = tl.load(kv_lens + sequence)
    q_len = end - start
    is_live = query < q_len
    token = (start + query).to(tl.int64)
    at = token * stride_query + head * stride_query_head
    queries = tl.load(q + at[:, None] + d[None, :], mask=is_live[:, None], other=0.0)
    queries = _narrow(queries, COMPUTE)
    WIDTH: tl.constexpr = D // 2 if IS_FLOAT8 else D
    even, odd = queries, queries
    if IS_FLOAT8:
        even, odd = tl.split(tl.reshape(queries, (ROWS, WIDTH, 2)))

    table = page_table + sequence.to(tl.int64) * stride_table
    k += kv_head * stride_head
    v += kv_head * stride_head
    num_visible = kv_len - q_len + query + 1  # keys up to and including the query's own
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    odd_acc = tl.zeros([ROWS, WIDTH], tl.float32)
    if IS_SHARED:
        shared_len = tl.load(shared_lens + tl.program_id(0))
        for first in range(0, tl.where(num_members > 0, shared_len, 0), KEYS):
            rows = _find_keys(table, first, shared_len - 1, stride_page, stride_slot, PAGE, KEYS)
            highest, total, acc, odd_acc = _add_any_keys(
                even,
                odd,
                highest,
                total,
                acc,
                odd_acc,
                k,
                v,
                rows,
                first,
                num_visible,
                scale,
                IS_FLOAT8,
                False,
            )
        for one in range(num_members):
            own_len = tl.load(kv_lens + sequence + one)
            own_table = table + one * stride_table
            # rows of nobody look along, so that they have seen a key as all others have
            is_own = (member == one) | (member >= num_members)
            own_visible = tl.where(is_own, num_visible, 0)
            for first in range(shared_len, own_len, KEYS):
                rows = _find_keys(
                    own_table, first, own_len - 1, stride_page, stride_slot, PAGE, KEYS
                )
                highest, total, acc, odd_acc = _add_any_keys(
                    even,
                    odd,
                    highest,
                    total,
                    acc,
                    odd_acc,
                    k,
                    v,
                    rows,
                    first,
                    own_visible,
                    scale,
                    IS_FLOAT8,
                    True,
                )
    else:
        for first in range(0, tl.where(q_len > 0, kv_len, 0), KEYS):
            rows = _find_keys(table, first, kv_len - 1, stride_page, stride_slot, PAGE, KEYS)
            highest, total, acc, odd_acc = _add_any_keys(
                even,
                odd,
                highest,
                total,
                acc,
                odd_acc,
                k,
                v,
                rows,
                first,
                num_visible,
                scale,
                IS_FLOAT8,
                True,
            )
    if IS_FLOAT8:
        acc = tl.interleave(acc, odd_acc)
    at = token * stride_out + head * D
    _write(out, at, acc, total, is_live)


@triton.jit
def _add_any_keys(
    even,
    odd,
    highest,
    total,
    acc,
    odd_acc,
    k,
    v,
    rows,
    first,
    num_visible,
    scale,
    IS_FLOAT8: tl.constexpr,
    MASKED: tl.constexpr,
):
    """`_add_keys`, also for float8 pages that are read as 16-bit integers, two channels in each.

    Matrix units want values of neighbouring keys side by side. Those of 16 bits an instruction
    transposes as it reads them; single bytes it would have to read one by one. So pairs of
    channels are read and only then taken apart: even and odd channels are products of their own.
    """
    if IS_FLOAT8:
        offsets = rows[:, None] + tl.arange(0, acc.shape[1])[None, :]
        even_keys, odd_keys = _take_apart(tl.load(k + offsets))
        even_values, odd_values = _take_apart(tl.load(v + offsets))
        scores = tl.dot(odd, tl.trans(odd_keys), tl.dot(even, tl.trans(even_keys)))
        weights, decay, highest, total = _weigh(
            scores, highest, total, first, num_visible, scale, MASKED
        )
        weights = weights.to(tl.float16)
        acc = tl.dot(weights, even_values, acc * decay[:, None])
        odd_acc = tl.dot(weights, odd_values, odd_acc * decay[:, None])
    else:
        highest, total, acc = _add_keys(
            even, highest, total, acc, k, v, rows, first, num_visible, scale, MASKED
        )
    return highest, total, acc, odd_acc


@triton.jit
def _take_apart(pairs):
    """Give the float8 values of even and of odd channels, as float16."""
    if IS_INTERPRETED:
        even = (pairs & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        odd = (pairs >> 8).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:  # two pairs at a time: sort their bytes, convert two and two
        even, odd = tl.inline_asm_elementwise(
            """{
                .reg .b32 bytes;
                .reg .b16 even, odd;
                prmt.b32 bytes, $2, 0, 0x3120;
                mov.b32 {even, odd}, bytes;
                cvt.rn.f16x2.e4m3x2 $0, even;
                cvt.rn.f16x2.e4m3x2 $1, odd;
            }""",
            "=r,=r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    return even, odd
