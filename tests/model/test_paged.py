"""Steps over KV pages against the dense forward of the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from tests.checkpoints import VOCAB_SIZE, write_checkpoint

PAGE_SIZE = 8
# scattered and not ascending: only the table says where a sequence lies
TABLES = [[7, 2, 11, 4, 0], [1, 9, 3, 10, 6], [5, 8, 14, 12, 13]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> DeepseekVL:
    """A single-tower model with fewer key heads than query heads."""
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, is_hybrid=False)
    return load_model(directory, dtype=torch.float32, device="cpu")


def empty_pages(model: DeepseekVL) -> KVPages:
    """As many pages as `TABLES` names."""
    text = model.config.text
    return KVPages.allocate(
        text.num_layers, text.num_kv_heads, text.head_dim, 15, PAGE_SIZE, torch.float32, "cpu"
    )


def step(model: DeepseekVL, kv: KVPages, chunks: Sequence[tuple[int, int, Tensor]]) -> list[Tensor]:
    """Run one step of chunks (sequence, first position, ids); the logits of each."""
    positions = [torch.arange(first, first + len(ids)) for _, first, ids in chunks]
    slots = [
        torch.tensor(TABLES[index])[where // PAGE_SIZE] * PAGE_SIZE + where % PAGE_SIZE
        for (index, _, _), where in zip(chunks, positions, strict=True)
    ]
    lengths = torch.tensor([0, *(len(ids) for _, _, ids in chunks)])
    kv_lens = torch.tensor([first + len(ids) for _, first, ids in chunks], dtype=torch.int32)
    packed = PackedInputs(
        positions=torch.cat(positions),
        slots=torch.cat(slots),
        query_starts=lengths.cumsum(0).to(torch.int32),
        page_table=torch.tensor([TABLES[i] for i, _, _ in chunks], dtype=torch.int32),
        kv_lens=kv_lens,
        max_query_len=int(lengths.max()),
        max_kv_len=int(kv_lens.max()),
    )
    hidden = model(model.embed(torch.cat([ids for _, _, ids in chunks]), None), packed, kv)
    return list(model.logits(hidden).split(lengths[1:].tolist()))


def random_ids(length: int, seed: int) -> Tensor:
    """Text ids: no special ones."""
    return torch.randint(3, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed))


def dense_logits(model: DeepseekVL, ids: Tensor) -> Tensor:
    """One sequence without pages."""
    return model.logits(model.forward_dense(model.embed(ids, None), torch.tensor([0, len(ids)])))


@torch.no_grad()
def test_whole_prefill_equals_dense_to_the_bit(model: DeepseekVL) -> None:
    """Without a past, pages only move memory."""
    ids = random_ids(33, seed=1)
    (found,) = step(model, empty_pages(model), [(0, 0, ids)])
    assert torch.equal(found, dense_logits(model, ids))


@torch.no_grad()
def test_chunks_and_decode_steps_equal_dense(model: DeepseekVL) -> None:
    """Chunk borders on and off page borders, single tokens, another sequence in between.

    1e-5: attention sums a chunk in another order than a whole prompt.
    """
    ids, other = random_ids(40, seed=2), random_ids(20, seed=3)
    kv = empty_pages(model)
    found = []
    for first, end in [(0, 5), (5, 16), (16, 17), (17, 30), (30, 31), (31, 32), (32, 40)]:
        chunks = [(0, first, ids[first:end])]
        if end <= len(other):
            chunks.insert(0, (1, first, other[first:end]))
        found.append(step(model, kv, chunks)[-1])
    torch.testing.assert_close(torch.cat(found), dense_logits(model, ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_result_does_not_depend_on_its_neighbours(model: DeepseekVL) -> None:
    """Completions must repeat whatever the scheduler put beside them: equal to the last bit."""
    prompts = [random_ids(length, seed=length) for length in (3, 17, 32)]
    alone, shared = empty_pages(model), empty_pages(model)
    together = step(model, shared, [(i, 0, ids) for i, ids in enumerate(prompts)])
    for i, ids in enumerate(prompts):
        assert torch.equal(step(model, alone, [(i, 0, ids)])[0], together[i])
    tokens = [random_ids(1, seed=i) for i in range(3)]
    for offset in range(3):
        chunks = [(i, len(prompts[i]) + offset, tokens[i]) for i in range(3)]
        together = step(model, shared, chunks)
        for chunk, expected in zip(chunks, together, strict=True):
            assert torch.equal(step(model, alone, [chunk])[0], expected)


@torch.no_grad()
def test_other_pages_stay_as_they_were(model: DeepseekVL) -> None:
    """A step writes its own slots and nothing else."""
    kv = empty_pages(model)
    kv.k.fill_(7.0)
    kv.v.fill_(7.0)
    step(model, kv, [(2, 0, random_ids(11, seed=5))])
    for pages in (kv.k, kv.v):
        written = (pages != 7.0).any(-1).all(0).all(1)  # (num_pages, page_size)
        expected = torch.zeros_like(written)
        expected[5] = True
        expected[8, :3] = True
        assert torch.equal(written, expected)
