"""The attention kernels at the 7B's sizes, and in a CUDA graph.

What they compute is tested in ``tests/ops`` too, which takes small shapes and every dtype.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops import attention
from dsvl_pipeline.ops.image_attention import attend_grid
from dsvl_pipeline.ops.rotary import rotary_frequencies, rotary_tables
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from tests.ops.kernels import random
from tests.ops.paged import SCALE, check_paged
from tests.ops.test_image_attention_kernels import expected

pytestmark = pytest.mark.gpu

BF16, FLOAT8 = torch.bfloat16, torch.float8_e4m3fn


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kv_dtype", [BF16, FLOAT8])
@pytest.mark.parametrize(
    "lengths",
    [
        [(1, n) for n in (1, 63, 64, 65, 700, 759, 4096, 8191)],
        [(8, n) for n in (8, 64, 71, 700, 4096)],
        [(n, n) for n in (624, 1, 17, 128, 129, 700, 2048)],
        [(512, 4096), (624, 1248), (100, 612)],
    ],
    ids=["decode", "verify", "whole", "chunks"],
)
def test_attention_of_the_7b(lengths: list[tuple[int, int]], kv_dtype: torch.dtype) -> None:
    """32 heads of 128 in pages of 64, long and short sequences side by side."""
    check_paged(lengths, (BF16, kv_dtype), "cuda", H=32, Hkv=32, D=128)


@pytest.mark.parametrize(("N", "G", "D"), [(2, 64, 64), (50, 14, 64), (2, 32, 32), (32, 8, 32)])
def test_grid_attention_of_both_checkpoints(N: int, G: int, D: int) -> None:
    """Whole grids and windows."""
    qkv = random(N, G * G, 3, 4, D, dtype=BF16, device="cuda").permute(2, 0, 3, 1, 4)
    tables = random(2, 2 * G - 1, D, dtype=BF16, device="cuda", seed=1) / 4
    found, wanted = attend_grid(*qkv, *tables), expected(*qkv, *tables)
    torch.testing.assert_close(found, wanted, atol=4e-2, rtol=4e-2, check_dtype=False)


@pytest.mark.parametrize("kv_dtype", [BF16, FLOAT8])
@pytest.mark.parametrize("q_len", [1, 5, 70])
def test_a_step_is_captured_and_replayed(q_len: int, kv_dtype: torch.dtype) -> None:
    """A graph holds no lengths and no pages: with others it gives what a launch gives."""
    B, H, D, page_size, width = 4, 8, 64, 64, 6
    generator = torch.Generator(device="cuda").manual_seed(0)
    kv = KVPages.allocate(1, H, D, B * width + 1, page_size, kv_dtype, "cuda")
    kv.k.copy_(torch.randn(kv.k.shape, device="cuda", generator=generator))
    kv.v.copy_(torch.randn(kv.v.shape, device="cuda", generator=generator))
    frequencies = rotary_frequencies(D, 10000.0).cuda()
    heads = torch.empty(B * q_len, 3 * H, D, device="cuda", dtype=BF16)
    packed = PackedInputs(
        positions=torch.zeros(B * q_len, dtype=torch.int64, device="cuda"),
        slots=torch.zeros(B * q_len, dtype=torch.int64, device="cuda"),
        query_starts=torch.arange(B + 1, dtype=torch.int32, device="cuda") * q_len,
        page_table=torch.zeros(B, width, dtype=torch.int32, device="cuda"),
        kv_lens=torch.zeros(B, dtype=torch.int32, device="cuda"),
        max_query_len=q_len,
        max_kv_len=width * page_size,
    )

    def set_inputs(kv_lens: list[int], seed: int) -> None:
        shuffle = torch.Generator().manual_seed(seed)
        table = (torch.randperm(B * width, generator=shuffle) + 1).view(B, width)
        for row, kv_len in enumerate(kv_lens):
            own = torch.arange(kv_len - q_len, kv_len) if kv_len else torch.zeros(q_len).long()
            slots = table[row, own // page_size] * page_size + own % page_size
            place = slice(row * q_len, (row + 1) * q_len)
            packed.positions[place] = own.cuda()
            packed.slots[place] = slots.cuda() if kv_len else 0  # page 0 is nobody's
        packed.page_table.copy_(table)
        packed.kv_lens.copy_(torch.tensor(kv_lens))
        heads.copy_(torch.randn(heads.shape, generator=shuffle))

    def step() -> Tensor:
        cos, sin = rotary_tables(packed.positions, frequencies)
        q = attention.rotate_and_store(heads, cos, sin, kv, 0, packed, H)
        return attention.attend_paged(q, kv, 0, packed, SCALE)

    set_inputs([q_len] * B, seed=0)
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for seed, kv_lens in enumerate(([300, 71, 0, 128], [128, 0, 384, 75]), start=1):
        set_inputs(kv_lens, seed)
        out.fill_(torch.nan)
        graph.replay()
        replayed = out.clone()
        with no_waiting():
            launched = step()
        assert torch.equal(replayed, launched)
        free = slice(kv_lens.index(0) * q_len, (kv_lens.index(0) + 1) * q_len)
        assert not launched[free].any()


def test_packed_attention_does_not_wait() -> None:
    """How long the sequences are stays on the device."""
    q, k, v = random(300, 3, 4, 64, dtype=BF16, device="cuda").unbind(1)
    starts = torch.tensor([0, 100, 101, 300], dtype=torch.int32, device="cuda")
    attention.attend_packed(q, k, v, starts, SCALE)
    with no_waiting():
        attention.attend_packed(q, k, v, starts, SCALE)
