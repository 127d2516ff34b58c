"""Attention over a grid with decomposed relative positions, without ever holding the bias.

The bias of a query and a key is a term by row plus a term by column. A first kernel makes the terms
(``G`` numbers each per query); the second takes the keys one grid row at a time, so that the term
by row is one number per query and the term by column is the same in every step. Letters as in
`ops.image_attention`, and ``L = G * G``.

Scores and terms are kept in base 2, as in `attention_tiles`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.kernels.attention_tiles import LOG2_E, Tiles

# ``keys`` does not count here: it is one row of the grid
GRID = Tiles(queries=64, keys=64, num_warps=4, num_stages=3)
WINDOW = Tiles(queries=64, keys=16, num_warps=4, num_stages=3)  # at most 16 columns
GRID_FLOAT32 = Tiles(queries=32, keys=32, num_warps=4, num_stages=2)
MOST_COLUMNS = 128


def attend_grid(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Attend over a grid; return ``[N, L, H * D]``.

    Args:
        q: ``[N, H, L, D]``; ``D`` a power of two from 16 on, the last dimension contiguous.
        k: Likewise, of the same strides.
        v: Likewise, of the same strides.
        rel_pos_h: ``[2 * G - 1, D]``, contiguous; ``G`` at most `MOST_COLUMNS`.
        rel_pos_w: Likewise.
        tiles: Instead of the ones above.
    """
    N, H, L, D = q.shape
    G = (rel_pos_h.shape[0] + 1) // 2
    if tiles is None:
        usual = WINDOW if G <= 16 else GRID
        tiles = GRID_FLOAT32 if q.dtype == torch.float32 else usual
    by_row, by_column = relative_terms(q, rel_pos_h, rel_pos_w)
    out = torch.empty(N, L, H * D, dtype=q.dtype, device=q.device)
    _attend_grid_kernel[(triton.cdiv(L, tiles.queries), N * H)](
        *(q, k, v, by_row, by_column, out, D**-0.5 * LOG2_E, *q.stride()[:3]),
        H=H,
        G=G,
        D=D,
        COLUMNS=_columns(G),
        QUERIES=tiles.queries,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def relative_terms(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply every query with the tables' rows for its distances, and by log2(e).

    Args:
        q: As for `attend_grid`, as are the tables.
        rel_pos_h: See there.
        rel_pos_w: See there.

    Returns:
        By row ``[N, H, G, L]`` and by column ``[N, H, L, G]``: the one read a row of keys at a
        time, the other once per query.
    """
    N, H, L, D = q.shape
    G = (rel_pos_h.shape[0] + 1) // 2
    by_row = torch.empty(N, H, G, L, dtype=q.dtype, device=q.device)
    by_column = torch.empty(N, H, L, G, dtype=q.dtype, device=q.device)
    COLUMNS = _columns(G)
    _relative_terms_kernel[(G, N * H)](
        q,
        rel_pos_h,
        rel_pos_w,
        by_row,
        by_column,
        LOG2_E,
        q.stride(0),
        q.stride(1),
        q.stride(2),
        H=H,
        G=G,
        D=D,
        COLUMNS=COLUMNS,
        num_warps=4 if COLUMNS > 32 else 1,
    )
    return by_row, by_column


def _columns(G: int) -> int:
    """Give a grid row's width as tiles have it."""
    return max(16, int(triton.next_power_of_2(G)))


@triton.jit
def _relative_terms_kernel(
    q,
    rel_pos_h,
    rel_pos_w,
    by_row,
    by_column,
    factor,
    stride_image,
    stride_head,
    stride_patch,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per (line of the grid, image and head): queries of one row, and of one column.

    All queries of a row have the same distance to a row of keys, so that they are a matrix product
    with one slice of the table, read backwards; columns likewise.
    """
    L: tl.constexpr = G * G
    line, image_head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place, d = tl.arange(0, COLUMNS), tl.arange(0, D)
    is_there = place < G
    q += image_head // H * stride_image + image_head % H * stride_head
    distances = (line - place + G - 1)[:, None] * D + d[None, :]

    patch = line * G + place
    at = patch[:, None] * stride_patch + d[None, :]
    queries = tl.load(q + at, mask=is_there[:, None], other=0.0)
    table = tl.load(rel_pos_h + distances, mask=is_there[:, None], other=0.0)
    terms = tl.dot(table, tl.trans(queries), input_precision="ieee") * factor  # (key row, query)
    at = image_head * (G * L) + place[:, None] * L + patch[None, :]
    is_pair = is_there[:, None] & is_there[None, :]
    tl.store(by_row + at, terms.to(by_row.dtype.element_ty), mask=is_pair)

    patch = place * G + line
    at = patch[:, None] * stride_patch + d[None, :]
    queries = tl.load(q + at, mask=is_there[:, None], other=0.0)
    table = tl.load(rel_pos_w + distances, mask=is_there[:, None], other=0.0)
    terms = tl.dot(queries, tl.trans(table), input_precision="ieee") * factor  # (query, key column)
    at = image_head * (G * L) + patch[:, None] * G + place[None, :]
    tl.store(by_column + at, terms.to(by_column.dtype.element_ty), mask=is_pair)


@triton.jit
def _attend_grid_kernel(
    q,
    k,
    v,
    by_row,
    by_column,
    out,
    scale,
    stride_image,
    stride_head,
    stride_patch,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """One program per (tile of queries, image and head); each step takes one grid row of keys.

    Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1.
    """
    L: tl.constexpr = G * G
    image_head = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    column, d = tl.arange(0, COLUMNS), tl.arange(0, D)
    is_query, is_key = query < L, column < G
    base = image_head // H * stride_image + image_head % H * stride_head
    at = base + query[:, None] * stride_patch + d[None, :]
    queries = tl.load(q + at, mask=is_query[:, None], other=0.0)
    at = (image_head * L + query)[:, None] * G + column[None, :]
    is_pair = is_query[:, None] & is_key[None, :]
    term = tl.load(by_column + at, mask=is_pair, other=0.0).to(tl.float32)
    term = tl.where(is_key[None, :], term, -float("inf"))  # the tile may be wider than the grid
    by_row += image_head * (G * L) + query

    k += base + column[None, :] * stride_patch + d[:, None]
    v += base + column[:, None] * stride_patch + d[None, :]
    highest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, D], tl.float32)
    for row in range(G):
        if COLUMNS == G:
            keys = tl.load(k + row * G * stride_patch)
            values = tl.load(v + row * G * stride_patch)
        else:
            keys = tl.load(k + row * G * stride_patch, mask=is_key[None, :], other=0.0)
            values = tl.load(v + row * G * stride_patch, mask=is_key[:, None], other=0.0)
        row_term = tl.load(by_row + row * L, mask=is_query, other=0.0).to(tl.float32)
        scores = tl.dot(queries, keys, input_precision="ieee") * scale + term
        # a query's row term is the same for all these keys: it need not be added to each
        new_highest = tl.maximum(highest, tl.max(scores, 1) + row_term)
        weights = tl.exp2(scores - (new_highest - row_term)[:, None])
        decay = tl.exp2(highest - new_highest)
        total = total * decay + tl.sum(weights, 1)
        acc = acc * decay[:, None]
        acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
        highest = new_highest
    at = (image_head // H * L + query)[:, None] * (H * D) + image_head % H * D + d[None, :]
    found = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + at, found, mask=is_query[:, None])
