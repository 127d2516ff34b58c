"""How much memory for keys and values an engine takes, on a machine that is made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dsvl_pipeline.engine.device.memory import kv_gib_for, resolve_num_pages
from dsvl_pipeline.records import EngineConfig
from tests.engine.scripted import CONFIG

GIB = 1 << 30
# 2 x 32 layers x 32 heads x 128 numbers of 2 bytes: 32 MiB for a page of 64 tokens
LARGE = replace(
    CONFIG,
    text=replace(CONFIG.text, num_layers=32, num_kv_heads=32, head_dim=128, max_positions=16384),
)


def give_free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """Pretend that a GPU has this much left."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(gib * GIB), 100 * GIB))


@pytest.mark.parametrize(
    ("free_gib", "usable_gib"), [(64.0, 58.0), (24.0, 18.0), (8.0, 6.0), (5.0, 3.75)]
)
def test_a_small_gpu_keeps_a_small_reserve(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, usable_gib: float
) -> None:
    """Six GiB of five would leave nothing to run with."""
    give_free(monkeypatch, free_gib)
    num_pages = resolve_num_pages(
        EngineConfig(),
        LARGE,
        num_sequences=256,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )
    assert num_pages == usable_gib * 32


@pytest.mark.parametrize("lengths", [[1], [64, 65], [16384] * 3, [700] * 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_for_lengths_holds_just_these(lengths: list[int], dtype: torch.dtype) -> None:
    """In pages: not one too few by rounding, not one too many."""
    device = torch.device("cpu")
    gib = kv_gib_for(lengths, LARGE, page_size=64, dtype=dtype, device=device)
    num_pages = resolve_num_pages(
        EngineConfig(kv_cache_gib=gib), LARGE, num_sequences=256, dtype=dtype, device=device
    )
    assert num_pages == sum(-(-length // 64) for length in lengths)


def test_memory_for_lengths_is_at_most_what_a_gpu_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits its turn, as in a job."""
    give_free(monkeypatch, 8.0)
    options = {"page_size": 64, "dtype": torch.bfloat16, "device": torch.device("cuda")}
    assert kv_gib_for([16384], LARGE, **options) == 6.0
    assert kv_gib_for([640], LARGE, **options) == 10.5 / 32
