"""Sequences in pages, and what attention over them must give."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from dsvl_pipeline.ops import attention
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from tests.ops.kernels import poisoned, random

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
SCALE = 0.2


def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence in float64: ``q`` are its last tokens ``[q_len, H, D]``, keys all of them."""
    q_len, kv_len, group = len(q), len(k), q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * SCALE
    hidden = torch.ones(q_len, kv_len, dtype=torch.bool, device=q.device).triu(kv_len - q_len + 1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def paged(
    lengths: list[tuple[int, int]],
    *,
    Hkv: int,
    D: int,
    page_size: int,
    dtype: torch.dtype,
    device: str,
) -> tuple[KVPages, PackedInputs, list[tuple[Tensor, Tensor]]]:
    """Fill two layers' pages in random order; all that no sequence holds is NaN."""
    width = max(1, *(-(-kv_len // page_size) for _, kv_len in lengths)) + 1
    num_pages = width * len(lengths) + 1
    shape = (2, num_pages, Hkv, page_size, D)
    k, v = (poisoned(*shape, dtype=dtype, device=device) for _ in "kv")
    order = torch.randperm(num_pages - 1, generator=torch.Generator().manual_seed(1)) + 1
    tables = order.view(len(lengths), width)
    held = []
    for index, ((_, kv_len), table) in enumerate(zip(lengths, tables, strict=True)):
        keys = random(kv_len, Hkv, D, dtype=dtype, device=device, seed=2 * index)
        values = random(kv_len, Hkv, D, dtype=dtype, device=device, seed=2 * index + 1)
        for first in range(0, kv_len, page_size):
            page, rest = table[first // page_size], min(page_size, kv_len - first)
            k[1, page, :, :rest] = keys[first : first + rest].transpose(0, 1)
            v[1, page, :, :rest] = values[first : first + rest].transpose(0, 1)
        held.append((keys.to(torch.float32), values.to(torch.float32)))
    starts = [0, *accumulate(q_len for q_len, _ in lengths)]
    wide = torch.zeros(len(lengths), width + 3, dtype=torch.int32)  # page 0 is nobody's
    wide[:, :width] = tables
    packed = PackedInputs(
        positions=torch.zeros(0, dtype=torch.int64, device=device),
        slots=torch.zeros(0, dtype=torch.int64, device=device),
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        page_table=wide.to(device)[:, :width],  # its rows lie further apart than they are long
        kv_lens=torch.tensor([n for _, n in lengths], dtype=torch.int32, device=device),
        max_query_len=max(q_len for q_len, _ in lengths),
        max_kv_len=max(kv_len for _, kv_len in lengths),
    )
    return KVPages(k=k, v=v, page_size=page_size), packed, held


def check_paged(
    lengths: list[tuple[int, int]],
    dtypes: tuple[torch.dtype, torch.dtype],
    device: str,
    *,
    H: int = 4,
    Hkv: int = 2,
    D: int = 32,
    page_size: int = 64,
) -> None:
    """Attend to pages, and compare every query of every sequence."""
    q_dtype, kv_dtype = dtypes
    kv, packed, held = paged(
        lengths, Hkv=Hkv, D=D, page_size=page_size, dtype=kv_dtype, device=device
    )
    T = sum(q_len for q_len, _ in lengths)
    q = random(T, H, 2 * D, dtype=q_dtype, device=device, seed=99)[..., :D]  # not contiguous
    found = attention.attend_paged(q, kv, 1, packed, SCALE)
    assert found.dtype == q_dtype
    bounds = list(pairwise(packed.query_starts.tolist()))
    for (start, end), (_, kv_len), (k, v) in zip(bounds, lengths, held, strict=True):
        one = q[start:end]
        wanted = expected(one, k, v) if kv_len else torch.zeros_like(one)
        tolerance = TOLERANCE[q_dtype]
        torch.testing.assert_close(
            found[start:end], wanted, atol=tolerance, rtol=tolerance, check_dtype=False
        )
