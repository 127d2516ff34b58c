"""The torch references against attention written out term by term in float64.

1e-5 is float32's rounding over sums of some dozens of values around 1.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops.attention import attend_packed, attend_paged, rotate_and_store
from dsvl_pipeline.ops.image_attention import attend_grid, attend_image
from dsvl_pipeline.ops.values import KVPages, PackedInputs

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5, "check_dtype": False}
SCALE = 0.3


def random(*shape: int, seed: int = 0) -> Tensor:
    """Values around 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence, query by query: ``q`` are its last tokens, ``[q_len, H, D]``."""
    out = torch.empty(q.shape, dtype=torch.float64)
    past, group = len(k) - len(q), q.shape[1] // k.shape[1]
    for i in range(len(q)):
        for head in range(q.shape[1]):
            keys = k[: past + i + 1, head // group].double()
            weights = (keys @ q[i, head].double() * SCALE).softmax(0)
            out[i, head] = weights @ v[: past + i + 1, head // group].double()
    return out


@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_packed_attention_equals_the_definition(num_kv_heads: int) -> None:
    """Causal within each sequence, blind to the others; heads of a group share keys."""
    starts = torch.tensor([0, 7, 8, 20], dtype=torch.int32)
    q, k, v = random(20, 6, 16), random(20, num_kv_heads, 16, seed=1), random(20, num_kv_heads, 16)
    expected = [causal(q[a:b], k[a:b], v[a:b]) for a, b in pairwise(starts.tolist())]
    found = attend_packed(q, k, v, starts, SCALE)
    torch.testing.assert_close(found, torch.cat(expected), **CLOSE)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_paged_attention_equals_the_definition(num_kv_heads: int) -> None:
    """A mixed step: a decode token, a chunk behind a past, and a whole prompt."""
    page_size, tables = 4, [[5, 0, 3], [8, 2, 7], [1, 6, 4]]
    spans = [(8, 9), (3, 11), (0, 6)]  # positions of each sequence's new tokens
    kv = KVPages.allocate(2, num_kv_heads, 16, 9, page_size, torch.float32, "cpu")
    keys = [random(end, num_kv_heads, 16, seed=index) for index, (_, end) in enumerate(spans)]
    values = [-one.flip(0) for one in keys]
    for table, k, v in zip(tables, keys, values, strict=True):  # all there but the new ones
        for position in range(len(k)):
            page, offset = table[position // page_size], position % page_size
            kv.k[1, page, :, offset], kv.v[1, page, :, offset] = k[position], v[position]
    q = random(15, 6, 16, seed=9)
    starts = [0, 1, 9, 15]
    slots = []
    for table, (first, end) in zip(tables, spans, strict=True):
        for position in range(first, end):
            page, offset = table[position // page_size], position % page_size
            slots.append(page * page_size + offset)
            kv.k[1, page, :, offset] = kv.v[1, page, :, offset] = torch.nan  # to be stored
    packed = PackedInputs(
        positions=torch.cat([torch.arange(*span) for span in spans]),
        slots=torch.tensor(slots),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        page_table=torch.tensor(tables, dtype=torch.int32),
        kv_lens=torch.tensor([end for _, end in spans], dtype=torch.int32),
        max_query_len=8,
        max_kv_len=11,
    )
    new_k = torch.cat([k[first:] for k, (first, _) in zip(keys, spans, strict=True)])
    new_v = torch.cat([v[first:] for v, (first, _) in zip(values, spans, strict=True)])
    turn = [torch.ones(15, 8), torch.zeros(15, 8)]  # by no angle
    heads = torch.cat((q, new_k, new_v), dim=1)
    rotated = rotate_and_store(heads, *turn, kv, 1, packed, 6)
    torch.testing.assert_close(rotated, q, rtol=0, atol=0)
    found = attend_paged(rotated, kv, 1, packed, SCALE)
    bounds = pairwise(starts)
    expected = [causal(q[a:b], k, v) for (a, b), k, v in zip(bounds, keys, values, strict=True)]
    torch.testing.assert_close(found, torch.cat(expected), **CLOSE)
    assert not kv.k[0].any()  # the other layer's pages


def test_image_attention_equals_the_definition() -> None:
    """No mask, the usual scale."""
    q, k, v = (random(2, 3, 10, 8, seed=seed) for seed in range(3))
    weights = (q.double() @ k.double().transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attend_image(q, k, v), weights @ v.double(), **CLOSE)


def test_grid_attention_equals_the_definition() -> None:
    """Relative terms by row and by column, of the unscaled query; the tables are not symmetric."""
    G, D = 4, 8
    q, k, v = (random(2, 3, G * G, D, seed=seed) for seed in range(3))
    rel_pos_h, rel_pos_w = random(2 * G - 1, D, seed=3), random(2 * G - 1, D, seed=4)
    scores = q.double() @ k.double().transpose(-1, -2) / D**0.5
    for query in range(G * G):
        for key in range(G * G):
            row = rel_pos_h[query // G - key // G + G - 1]
            column = rel_pos_w[query % G - key % G + G - 1]
            scores[:, :, query, key] += q[:, :, query].double() @ (row + column).double()
    found = attend_grid(q, k, v, rel_pos_h, rel_pos_w)
    expected = (scores.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)  # heads side by side
    torch.testing.assert_close(found, expected, **CLOSE)
