"""The last layer for some rows alone against all layers for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.model.checkpoint import Quantization, load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL, LastRows
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from tests.checkpoints import VOCAB_SIZE, write_checkpoint

LENGTHS = [7, 1, 12]
ENDS = [7, 8, 20]


@pytest.fixture(
    scope="module",
    params=[("none", 3), ("none", 1), ("fp8", 3)],
    ids=["float32", "one layer", "fp8"],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: Any) -> DeepseekVL:
    """Fewer key heads than query heads; also with the first layer being the last."""
    quantization: Quantization
    quantization, num_layers = request.param
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, is_hybrid=False, text={"num_hidden_layers": num_layers})
    model = load_model(directory, dtype=torch.float32, device="cpu", quantization=quantization)
    assert model.config.text.num_kv_heads < model.config.text.num_heads
    return model


def prefill() -> PackedInputs:
    """Whole prompts of `LENGTHS` tokens, two pages of 8 each."""
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    firsts = torch.tensor([0, 16, 32]).repeat_interleave(torch.tensor(LENGTHS))
    return PackedInputs(
        positions=positions,
        slots=firsts + positions,
        query_starts=torch.tensor([0, *ENDS], dtype=torch.int32),
        page_table=torch.arange(6, dtype=torch.int32).view(3, 2),
        kv_lens=torch.tensor(LENGTHS, dtype=torch.int32),
        max_query_len=12,
        max_kv_len=12,
    )


def last_rows(packed: PackedInputs, rows: list[int], counts: list[int]) -> LastRows:
    """So many last rows of each sequence."""
    index = torch.tensor(rows)
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    chosen = replace(
        packed,
        positions=packed.positions[index],
        slots=packed.slots[index],
        query_starts=starts,
        max_query_len=max(counts),
    )
    return LastRows(rows=index, packed=chosen)


def run(model: DeepseekVL, rows: list[int], counts: list[int]) -> tuple[Tensor, ...]:
    """All rows, the chosen ones alone, and both pages afterwards."""
    text, packed = model.config.text, prefill()
    ids = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.Generator().manual_seed(0))
    kvs = [
        KVPages.allocate(
            text.num_layers, text.num_kv_heads, text.head_dim, 6, 8, torch.float32, "cpu"
        )
        for _ in range(2)
    ]
    hidden = model.embed(ids, None)
    every = model(hidden, packed, kvs[0])
    some = model(hidden, packed, kvs[1], last=last_rows(packed, rows, counts))
    return every, some, torch.stack((kvs[0].k, kvs[0].v)), torch.stack((kvs[1].k, kvs[1].v))


@torch.no_grad()
@pytest.mark.parametrize(
    ("rows", "counts"), [([6, 7, 19], [1, 1, 1]), ([5, 6, 7, 17, 18, 19], [2, 1, 3])]
)
def test_chosen_rows_equal_those_of_the_whole(
    model: DeepseekVL, rows: list[int], counts: list[int]
) -> None:
    """One per sequence, as for sampling, or a few, as for drafts; keys and values are all kept.

    1e-5: attention and products sum in another order for fewer queries.
    """
    every, some, whole_pages, pages = run(model, rows, counts)
    torch.testing.assert_close(some, every[rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pages, whole_pages, rtol=1e-5, atol=1e-5)
    assert pages[:, -1].any()


@torch.no_grad()
def test_other_layers_compute_every_row(model: DeepseekVL) -> None:
    """Only in the last layer does nothing depend on the rows that are left out."""
    *_, whole_pages, pages = run(model, [19], [0, 0, 1])
    assert torch.equal(pages[:, :-1], whole_pages[:, :-1])
