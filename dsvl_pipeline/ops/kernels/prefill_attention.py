"""Causal attention for any number of queries of each sequence, with and without KV pages.

Prefill computes: its kernel keeps the matrix units busy. Letters as in `ops.attention`; scores are
in base 2, see `attention_tiles`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.attention_tiles import LOG2_E, Tiles, choose_tiles, compute_type
from dsvl_pipeline.ops.kernels.online_softmax import _add_keys, _find_keys, _narrow, _write

PREFILL = Tiles(queries=64, keys=64, num_warps=4, num_stages=5)
PREFILL_FLOAT8 = Tiles(queries=128, keys=64, num_warps=4, num_stages=3)
# float32 is there for comparison: tiles of 4 bytes a value have to fit as well
PREFILL_FLOAT32 = Tiles(queries=32, keys=32, num_warps=4, num_stages=2)


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
    """Attend with any number of queries of each sequence; return ``[T, H, D]``.

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
    """
    tiles = tiles or choose_tiles(q, k, PREFILL, PREFILL_FLOAT8, PREFILL_FLOAT32)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if page_table is None or kv_lens is None:
        pages, where = 0, (query_starts, query_starts, query_starts)  # the last two are not read
        key_strides: tuple[int, ...] = (0, k.stride(1), k.stride(0), 0)
    else:
        pages, where = k.shape[2], (query_starts, page_table, kv_lens)
        key_strides = (*k.stride()[:3], page_table.stride(0))
    num_heads, num_tiles = q.shape[1], triton.cdiv(max_query_len, tiles.queries)
    _prefill_kernel[(num_tiles, num_heads, query_starts.shape[0] - 1)](
        *(q, k, v, out, *where, scale * LOG2_E, *q.stride()[:2], out.stride(0), *key_strides),
        GROUP=num_heads // k.shape[1],
        D=q.shape[2],
        PAGE=pages,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        COMPUTE=compute_type(q, k),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


# Other addresses and strides of these are no reason to compile again.
_ANY_VALUE = ("query_starts", "page_table", "kv_lens", "stride_table")


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
