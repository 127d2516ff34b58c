"""Causal attention over KV pages; `kernels.rotary` fills them.

Decode reads every key once and computes next to nothing: its kernel is as fast as the memory.
Prefill computes: its kernel keeps the matrix units busy. Letters as in `ops.attention`.

Scores are kept in base 2 (``scale`` holds the factor log2(e)), where the exponential is one
instruction. A factor has to be positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.values import SharedPages

LOG2_E = log2(2.718281828459045)
MOST_DECODE_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a kernel cuts its work; found by measuring (``benchmarks/kernels.py``).

    Attributes:
        queries: Rows of queries that a program holds, a power of two, at least 16.
        keys: Keys it reads at a time, likewise.
        num_warps: Warps of 32 threads that share a program.
        num_stages: Depth of the pipeline of reads. Where keys wait for the page table, 3 is one
            tile ahead and 5 two; even numbers add nothing.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


DECODE = Tiles(queries=16, keys=64, num_warps=4, num_stages=3)
DECODE_FLOAT8 = Tiles(queries=16, keys=64, num_warps=4, num_stages=5)
PREFILL = Tiles(queries=64, keys=64, num_warps=4, num_stages=5)
PREFILL_FLOAT8 = Tiles(queries=128, keys=64, num_warps=4, num_stages=3)
# float32 is there for comparison: tiles of 4 bytes a value have to fit as well
DECODE_FLOAT32 = Tiles(queries=16, keys=32, num_warps=4, num_stages=2)
PREFILL_FLOAT32 = Tiles(queries=32, keys=32, num_warps=4, num_stages=2)

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
    """Attend with few queries of each sequence.

    Args:
        q: ``[T, H, D]``, at most `MOST_DECODE_ROWS` of a sequence for each head of ``k``.
        k: ``[num_pages, Hkv, page_size, D]``, one layer's; page size and ``D`` powers of two
            from 16 on.
        v: Likewise, of the same strides.
        query_starts: As in `PackedInputs`, as are the following.
        page_table: See there.
        kv_lens: See there.
        max_query_len: See there.
        scale: Factor of the scores.
        tiles: Instead of the ones above.
        shared: Pages that sequences have in common; the limit of rows then holds for a group.

    Returns:
        ``[T, H, D]``.
    """
    _, num_heads, D = q.shape
    num_kv_heads, page_size = k.shape[1:3]
    tiles = tiles or _choose(q, k, DECODE, DECODE_FLOAT8, DECODE_FLOAT32)
    compute_type, group = _compute_type(q, k), num_heads // num_kv_heads
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    is_float8 = k.dtype == torch.float8_e4m3fn and q.dtype != torch.float32
    is_float8 = is_float8 and D >= 32  # half the channels are still a matrix unit's 16
    if is_float8:
        k, v = k.view(torch.int16), v.view(torch.int16)
    num_programs = kv_lens.shape[0] if shared is None else shared.shared_lens.shape[0]
    num_rows = max_query_len * group * (1 if shared is None else shared.max_group_size)
    _decode_kernel[(num_programs, num_kv_heads)](
        q,
        k,
        v,
        out,
        query_starts,
        page_table,
        kv_lens,
        kv_lens if shared is None else shared.group_starts,  # not read
        kv_lens if shared is None else shared.shared_lens,
        scale * LOG2_E,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        page_table.stride(0),
        GROUP=group,
        D=D,
        PAGE=page_size,
        ROWS=max(tiles.queries, triton.next_power_of_2(num_rows)),
        KEYS=min(page_size, tiles.keys),
        COMPUTE=compute_type,
        IS_FLOAT8=is_float8,
        IS_SHARED=shared is not None,
        MOST_QUERIES=0 if shared is None else max_query_len,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    page_table: Tensor | None,
    kv_lens: Tensor | None,
    max_query_len: int,
    scale: float,
    tiles: Tiles | None = None,
) -> Tensor:
    """Attend with any number of queries of each sequence.

    Args:
        q: ``[T, H, D]``.
        k: As for `decode`; without a page table ``[T, Hkv, D]``, the queries' own keys.
        v: Likewise, of the same strides.
        query_starts: As in `PackedInputs`, as are the following.
        page_table: See there.
        kv_lens: See there; None without a page table.
        max_query_len: See there; more than there are costs programs that end at once.
        scale: Factor of the scores.
        tiles: Instead of the ones above.

    Returns:
        ``[T, H, D]``.
    """
    _, num_heads, D = q.shape
    num_kv_heads = k.shape[1]
    tiles = tiles or _choose(q, k, PREFILL, PREFILL_FLOAT8, PREFILL_FLOAT32)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_tiles = triton.cdiv(max_query_len, tiles.queries)
    is_paged = page_table is not None
    _prefill_kernel[(num_tiles, num_heads, query_starts.shape[0] - 1)](
        q,
        k,
        v,
        out,
        query_starts,
        query_starts if page_table is None else page_table,  # not read
        query_starts if kv_lens is None else kv_lens,
        scale * LOG2_E,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        k.stride(0) if is_paged else 0,
        k.stride(1),
        k.stride(2) if is_paged else k.stride(0),
        0 if page_table is None else page_table.stride(0),
        GROUP=num_heads // num_kv_heads,
        D=D,
        PAGE=k.shape[2] if is_paged else 0,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        COMPUTE=_compute_type(q, k),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def _choose(q: Tensor, k: Tensor, usual: Tiles, float8: Tiles, float32: Tiles) -> Tiles:
    """Give the tiles for these dtypes."""
    if q.dtype == torch.float32:
        return float32
    return float8 if k.element_size() == 1 else usual


def _compute_type(q: Tensor, k: Tensor) -> tl.dtype:
    """Give the dtype of both matrix products' factors."""
    if q.dtype == torch.float32:
        return tl.float32
    # from float8 there is an instruction to float16, but none to bfloat16
    return tl.float16 if q.dtype == torch.float16 or k.element_size() == 1 else tl.bfloat16


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


@triton.jit(do_not_specialize=_ANY_VALUE)
def _prefill_kernel(
    q,
    k,
    v,
    out,
    query_starts,
    page_table,
    kv_lens,
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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """One program per (tile of queries, head, sequence); ``PAGE`` 0 is without pages.

    Tiles that every query sees whole need no mask and go first; those on the diagonal follow.
    """
    # the last queries have the most keys: started first, they do not end alone
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head, sequence = tl.program_id(1), tl.program_id(2)
    start = tl.load(query_starts + sequence)
    q_len = tl.load(query_starts + sequence + 1) - start
    if tile * QUERIES >= q_len:
        return
    query, d = tile * QUERIES + tl.arange(0, QUERIES), tl.arange(0, D)
    is_live = query < q_len
    token = (start + query).to(tl.int64)
    at = token * stride_query + head * stride_query_head
    queries = tl.load(q + at[:, None] + d[None, :], mask=is_live[:, None], other=0.0)
    queries = _narrow(queries, COMPUTE)

    kv_head = head // GROUP
    k += kv_head * stride_head
    v += kv_head * stride_head
    if PAGE > 0:
        kv_len = tl.load(kv_lens + sequence)
        table = page_table + sequence.to(tl.int64) * stride_table
    else:
        kv_len = q_len
        table = page_table
        k += start.to(tl.int64) * stride_slot
        v += start.to(tl.int64) * stride_slot
    past = kv_len - q_len
    num_visible = past + query + 1
    seen_by_all = tl.maximum(past + tile * QUERIES + 1, 0) // KEYS * KEYS
    seen_by_any = tl.minimum(past + tile * QUERIES + QUERIES, kv_len)
    highest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, D], tl.float32)
    for first in range(0, seen_by_all, KEYS):
        rows = _find_keys(table, first, kv_len - 1, stride_page, stride_slot, PAGE, KEYS)
        highest, total, acc = _add_keys(
            queries, highest, total, acc, k, v, rows, first, num_visible, scale, False
        )
    for first in range(seen_by_all, seen_by_any, KEYS):
        rows = _find_keys(table, first, kv_len - 1, stride_page, stride_slot, PAGE, KEYS)
        highest, total, acc = _add_keys(
            queries, highest, total, acc, k, v, rows, first, num_visible, scale, True
        )
    at = token * stride_out + head * D
    _write(out, at, acc, total, is_live)


@triton.jit
def _find_keys(
    table, first, newest, stride_page, stride_slot, PAGE: tl.constexpr, KEYS: tl.constexpr
):
    """Give the offsets of ``KEYS`` keys from ``first`` on; behind the newest comes itself again.

    Reading one key several times needs no mask and costs nothing, and what else lies in its page,
    a NaN perhaps, stays out: a weight of 0 would not silence that.
    """
    key = tl.minimum(first + tl.arange(0, KEYS), newest)
    if PAGE == 0:
        at = key.to(tl.int64) * stride_slot
    elif KEYS <= PAGE:  # all in one page
        page = tl.load(table + first // PAGE).to(tl.int64)
        at = page * stride_page + (key % PAGE) * stride_slot
    else:
        pages = tl.load(table + key // PAGE).to(tl.int64)
        at = pages * stride_page + (key % PAGE) * stride_slot
    return at


@triton.jit
def _add_keys(
    queries, highest, total, acc, k, v, rows, first, num_visible, scale, MASKED: tl.constexpr
):
    """Take some more keys and values into the running softmax.

    Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1.
    """
    D: tl.constexpr = acc.shape[1]
    offsets = rows[:, None] + tl.arange(0, D)[None, :]
    keys = tl.load(k + offsets).to(queries.dtype)
    values = tl.load(v + offsets).to(queries.dtype)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    weights, decay, highest, total = _weigh(
        scores, highest, total, first, num_visible, scale, MASKED
    )
    acc = tl.dot(weights.to(queries.dtype), values, acc * decay[:, None], input_precision="ieee")
    return highest, total, acc


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
def _weigh(scores, highest, total, first, num_visible, scale, MASKED: tl.constexpr):
    """Give the weights of some more keys, and the factor for all that was summed up before them."""
    if MASKED:
        key = first + tl.arange(0, scores.shape[1])
        scores = tl.where(key[None, :] < num_visible[:, None], scores, -float("inf"))
    # the first tile has a key for every row, so that nothing here is -inf - -inf
    new_highest = tl.maximum(highest, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new_highest[:, None])
    decay = tl.exp2(highest - new_highest)
    return weights, decay, new_highest, total * decay + tl.sum(weights, 1)


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


@triton.jit
def _narrow(queries, COMPUTE: tl.constexpr):
    """Cast queries to the products' dtype; float16's range ends early."""
    if tl.float16 == COMPUTE:
        queries = tl.clamp(queries.to(tl.float32), -65504.0, 65504.0)
    return queries.to(COMPUTE)


@triton.jit
def _write(out, at, acc, total, is_live):
    """Store the weighted sums; where there was no key, zeros."""
    D: tl.constexpr = acc.shape[1]
    found = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    offsets = at[:, None] + tl.arange(0, D)[None, :]
    tl.store(out + offsets, found.to(out.dtype.element_ty), mask=is_live[:, None])
