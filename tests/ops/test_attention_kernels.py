"""The attention kernels against attention written out densely in float64.

Tolerances: float32 differs by the order of sums; 16 bits round weights and results to 2^-8 of
their size, and Triton's interpreter cuts off instead of rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops import attention
from dsvl_pipeline.ops.rotary import apply_rotary, rotary_frequencies, rotary_tables
from dsvl_pipeline.ops.values import KVPages, PackedInputs, SharedPages
from tests.ops.kernels import INTERPRETER_WARNS, on_each_device_with, poisoned, random
from tests.ops.paged import SCALE, TOLERANCE, check_paged, expected, paged

pytestmark = INTERPRETER_WARNS

FLOAT8 = torch.float8_e4m3fn
DTYPES = [  # of queries, of pages
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, FLOAT8),
    (torch.float32, FLOAT8),
]

# Lengths of (queries, keys); (n, 0) is a free row of a fixed batch.
DECODE = {
    "one token each": [(1, 1), (1, 15), (1, 16), (1, 17), (1, 64), (1, 65), (1, 130)],
    "drafts of unequal length": [(3, 3), (1, 40), (8, 64), (8, 71), (2, 129)],
    "free rows": [(1, 0), (1, 33), (1, 0), (4, 0), (0, 20)],
}
PREFILL = {
    "whole prompts": [(17, 17), (64, 64), (130, 130), (1, 1), (63, 63)],
    "chunks behind a past": [(17, 50), (129, 200), (20, 148), (65, 66)],
    "free rows": [(30, 0), (90, 90), (0, 12), (1, 0)],
}


@pytest.fixture(autouse=True)
def _kernels_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reference must not step in for a kernel under test, and outputs start as NaN."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the torch reference ran")

    def empty(*shape: Any, **kinds: Any) -> Tensor:
        return torch.full(shape[0] if len(shape) == 1 else shape, torch.nan, **kinds)

    with monkeypatch.context() as patch:
        patch.setattr(attention, "_attend_one", refuse)
        patch.setattr(attention, "_store", refuse)
        patch.setattr(torch, "empty", empty)
        yield


@on_each_device_with(*DTYPES)
@pytest.mark.parametrize("lengths", DECODE.values(), ids=DECODE)
def test_decode_equals_the_definition(
    lengths: list[tuple[int, int]], dtypes: tuple[torch.dtype, torch.dtype], device: str
) -> None:
    """A query sees keys up to its own position, in pages that lie anywhere, full or not."""
    check_paged(lengths, dtypes, device)


@on_each_device_with(*DTYPES)
@pytest.mark.parametrize("lengths", PREFILL.values(), ids=PREFILL)
def test_prefill_equals_the_definition(
    lengths: list[tuple[int, int]], dtypes: tuple[torch.dtype, torch.dtype], device: str
) -> None:
    """Chunks end where their sequence ends, whatever stands before and how long the others are."""
    check_paged(lengths, dtypes, device, H=2, Hkv=1)


@on_each_device_with(DTYPES[0], DTYPES[3])
@pytest.mark.parametrize("page_size", [16, 32, 128])
@pytest.mark.parametrize("lengths", [DECODE["drafts of unequal length"], PREFILL["free rows"]])
def test_every_page_size_gives_the_same(
    lengths: list[tuple[int, int]],
    page_size: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    device: str,
) -> None:
    """A tile of keys may be a part of a page, one page, or several."""
    check_paged(lengths, dtypes, device, page_size=page_size)


@on_each_device_with(*DTYPES[:4])
@pytest.mark.parametrize(("H", "Hkv", "D"), [(3, 1, 16), (6, 6, 64), (12, 2, 16), (32, 1, 16)])
def test_every_number_of_heads_gives_the_same(
    H: int, Hkv: int, D: int, dtypes: tuple[torch.dtype, torch.dtype], device: str
) -> None:
    """The heads of a group share a tile: whole tiles, some rows of one, or more than one tile."""
    lengths = [(1, 20), (2, 70), (1, 3)]
    check_paged(lengths, dtypes, device, H=H, Hkv=Hkv, D=D)


@on_each_device_with((torch.float32,), (torch.bfloat16,), (torch.float16,))
def test_packed_attention_equals_the_definition(dtypes: tuple[torch.dtype], device: str) -> None:
    """Without pages; keys and values come as views into larger tensors."""
    (dtype,) = dtypes
    starts = [0, 70, 71, 71, 200]
    heads = random(200, 6, 32, dtype=dtype, device=device)
    q, k, v = heads[:, :2], heads[:, 2:3], random(200, 1, 32, dtype=dtype, device=device, seed=1)
    query_starts = torch.tensor(starts, dtype=torch.int32, device=device)
    found = attention.attend_packed(q, k, v, query_starts, SCALE)
    wanted = torch.cat([expected(q[a:b], k[a:b], v[a:b]) for a, b in pairwise(starts)])
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance, check_dtype=False)


@on_each_device_with(*DTYPES)
@pytest.mark.parametrize(
    ("groups", "lengths"),
    [
        ([(3, 64), (1, 0), (2, 128)], [(1, 65), (1, 200), (1, 64), (1, 7), (1, 129), (1, 140)]),
        ([(2, 64), (0, 0), (3, 64)], [(2, 70), (3, 130), (1, 66), (3, 67), (2, 64 + 128)]),
        ([(1, 0), (1, 0), (0, 0)], [(1, 0), (1, 90)]),
    ],
    ids=["one token each", "drafts", "nothing shared"],
)
def test_shared_pages_give_the_same(
    groups: list[tuple[int, int]],
    lengths: list[tuple[int, int]],
    dtypes: tuple[torch.dtype, torch.dtype],
    device: str,
) -> None:
    """Read once for all of a group they change no result.

    Sums may be taken in another order where a tile has more rows. All of a sequence but its
    group's pages is its own, where others must not look.
    """
    q_dtype, kv_dtype = dtypes
    page_size, D = 64, 32
    kv, packed, _ = paged(lengths, Hkv=2, D=D, page_size=page_size, dtype=kv_dtype, device=device)
    starts = [0, *accumulate(size for size, _ in groups)]
    for first, (size, shared_len) in zip(starts, groups, strict=False):
        num_shared = shared_len // page_size
        rows = packed.page_table[first : first + size, :num_shared]
        rows.copy_(rows[:1].clone().expand_as(rows))
    shared = SharedPages(
        group_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        shared_lens=torch.tensor([n for _, n in groups], dtype=torch.int32, device=device),
        max_group_size=max(size for size, _ in groups),
    )
    q = random(sum(n for n, _ in lengths), 4, D, dtype=q_dtype, device=device)
    alone = attention.attend_paged(q, kv, 1, packed, SCALE)
    together = attention.attend_paged(q, kv, 1, replace(packed, shared=shared), SCALE)
    assert together.isfinite().all()
    tolerance = TOLERANCE[q_dtype]
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)


@on_each_device_with(*DTYPES)
@pytest.mark.parametrize(("H", "Hkv", "D"), [(4, 2, 32), (5, 1, 16), (32, 32, 128), (0, 2, 32)])
def test_heads_are_rotated_and_stored(
    H: int, Hkv: int, D: int, dtypes: tuple[torch.dtype, torch.dtype], device: str
) -> None:
    """As `apply_rotary` says; only the slots named are written, and float8 ends at 448."""
    T, page_size = 7, 16
    dtype, kv_dtype = dtypes
    heads = random(T, H + 2 * Hkv, D, dtype=dtype, device=device)
    heads[3] *= 400
    positions = torch.tensor([0, 1, 5, 900, 3, 2, 4096], device=device)
    cos, sin = rotary_tables(positions, rotary_frequencies(D, 10000.0).to(device))
    slots = torch.tensor([37, 5, 79, 0, 63, 64, 16], device=device)
    shape = (2, 6, Hkv, page_size, D)
    kv = KVPages(
        k=poisoned(*shape, dtype=kv_dtype, device=device),
        v=poisoned(*shape, dtype=kv_dtype, device=device),
        page_size=page_size,
    )
    packed = PackedInputs(
        positions=positions,
        slots=slots,
        query_starts=torch.tensor([0, T], dtype=torch.int32, device=device),
        page_table=torch.zeros(1, 1, dtype=torch.int32, device=device),
        kv_lens=torch.tensor([T], dtype=torch.int32, device=device),
        max_query_len=T,
        max_kv_len=T,
    )
    q = attention.rotate_and_store(heads, cos, sin, kv, 1, packed, H)

    rotated = apply_rotary(heads.double(), cos.double(), sin.double())
    close: dict[str, Any] = {"atol": 1e-4, "rtol": 2**-7, "check_dtype": False}
    torch.testing.assert_close(q, rotated[:, :H], **close)
    if kv_dtype == FLOAT8:
        # one step of 3 bits; the interpreter loses the carry where rounding reaches a power of two
        step = 2**-3 if device == "cuda" else 2**-1
        close = {"atol": 2**-8, "rtol": step, "check_dtype": False}
    limit = torch.finfo(kv_dtype).max
    for stored, wanted in ((kv.k, rotated[:, H : H + Hkv]), (kv.v, heads[:, H + Hkv :])):
        by_slot = stored[1].float().transpose(1, 2).flatten(0, 1)  # (num_slots, Hkv, D)
        torch.testing.assert_close(by_slot[slots], wanted.double().clamp(-limit, limit), **close)
        is_other = torch.ones(len(by_slot), dtype=torch.bool, device=device)
        is_other[slots] = False
        assert by_slot[is_other].isnan().all()
        assert stored[0].float().isnan().all()
