"""Decode steps as padded rows, which only GPUs replay, against packed tokens on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dsvl_pipeline.engine.device.batch import pack
from dsvl_pipeline.engine.device.step_rows import (
    NUM_QUERIES,
    Layout,
    can_verify_as_rows,
    pack_decode,
    pack_verify,
    unpack_decode,
    unpack_verify,
)
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.values import KVPages
from dsvl_pipeline.records import Request
from tests.checkpoints import write_checkpoint

PAGE_SIZE, NUM_PAGES, PADDING_LANE = 4, 30, 7
LAYOUT = Layout(
    page_size=PAGE_SIZE, padding_page=NUM_PAGES, padding_lane=PADDING_LANE, max_pages=12
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeepseekVL]:
    """A single tower; its language model is all that counts here."""
    directory = tmp_path_factory.mktemp("tiny")
    write_checkpoint(directory, is_hybrid=False, seed=3)
    with torch.inference_mode():
        yield load_model(directory, dtype=torch.float32, device="cpu")


@pytest.fixture
def kv(model: DeepseekVL) -> KVPages:
    """Random keys and values of what came before; those of the padding page are not numbers."""
    text = model.config.text
    shape = (text.num_layers, text.num_kv_heads, text.head_dim)
    kv = KVPages.allocate(*shape, NUM_PAGES + 1, PAGE_SIZE, torch.float32, "cpu")
    for pages in (kv.k, kv.v):
        pages.normal_(generator=torch.Generator().manual_seed(0))
        pages[:, NUM_PAGES] = torch.nan
    return kv


def chunk(lane: int, pages: list[int], start: int, draft: tuple[int, ...] = ()) -> Chunk:
    """Make a chunk of a sequence whose newest token stands at ``start``."""
    ids = np.random.default_rng(lane).integers(3, 250, start + 1).astype(np.int32)
    sequence = Sequence(
        request=Request(request_id=str(lane), prompt_ids=ids),
        number=lane,
        max_tokens=100,
        stop_ids=frozenset(),
        submitted_s=0.0,
    )
    sequence.page_table, sequence.lane = pages, lane
    return Chunk(sequence, start, start + 1 + len(draft), True, draft)


CHUNKS = [
    chunk(0, [3, 5, 1, 2], 9, (11, 12, 13, 14)),
    chunk(1, [9, 8, 7, 6], 8, (21, 22, 23, 24, 25, 26, 27)),
    chunk(2, [10, 11, 12], 11),
]


@torch.inference_mode()
def test_padded_drafts_give_what_packed_ones_do(model: DeepseekVL, kv: KVPages) -> None:
    """And they write what those wrote, and nothing elsewhere but to the padding page."""
    known = pack(CHUNKS, page_size=PAGE_SIZE, device=torch.device("cpu"))
    wanted = model.forward(model.embed(known.ids, None), known.packed, kv)
    keys = kv.k.clone()
    assert can_verify_as_rows(CHUNKS[:2])
    rows, index = pack_verify(CHUNKS, LAYOUT, 5)
    ids, packed = unpack_verify(torch.from_numpy(rows), LAYOUT)
    kv.k[:, NUM_PAGES] = kv.v[:, NUM_PAGES] = 0  # the reference reads a whole page
    found = model.forward(model.embed(ids, None), packed, kv)[torch.from_numpy(index)]
    assert_close(found, wanted, rtol=0, atol=1e-5)
    assert_close(kv.k[:, :NUM_PAGES], keys[:, :NUM_PAGES], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_padded_tokens_give_what_packed_ones_do(model: DeepseekVL, kv: KVPages) -> None:
    """Whatever fills the step up."""
    chunks = [chunk(lane, c.sequence.page_table, c.start) for lane, c in enumerate(CHUNKS)]
    known = pack(chunks, page_size=PAGE_SIZE, device=torch.device("cpu"))
    wanted = model.forward(model.embed(known.ids, None), known.packed, kv)
    rows, is_shared = pack_decode(chunks, LAYOUT, 4)
    assert not is_shared
    lanes, packed = unpack_decode(torch.from_numpy(rows), LAYOUT, is_shared)
    assert lanes.tolist() == [0, 1, 2, PADDING_LANE]
    kv.k[:, NUM_PAGES] = kv.v[:, NUM_PAGES] = 0
    ids = torch.cat((known.ids, torch.zeros(1, dtype=torch.int64)))
    found = model.forward(model.embed(ids, None), packed, kv)[:3]
    assert_close(found, wanted, rtol=0, atol=1e-5)


def test_groups_end_with_the_rows() -> None:
    """A graph always has as many groups as rows; those beyond the last one are empty."""
    chunks = [chunk(lane, [3, 5, lane + 6], 9) for lane in range(3)]
    rows, is_shared = pack_decode(chunks, LAYOUT, 5)
    assert is_shared
    _, packed = unpack_decode(torch.from_numpy(rows), LAYOUT, is_shared)
    assert packed.shared is not None
    assert packed.shared.group_starts.tolist() == [0, 3, 4, 5, 5, 5]
    assert packed.shared.shared_lens.tolist() == [8, 0, 0, 0, 0]


def test_short_or_sparse_drafts_are_packed() -> None:
    """A query before the first token has nothing to attend to, and empty ones cost as much."""
    long_draft = (1,) * (NUM_QUERIES - 1)
    assert can_verify_as_rows([chunk(0, [1, 2, 3, 4], 8, long_draft), chunk(1, [5, 6, 7], 9)])
    assert not can_verify_as_rows([chunk(0, [1], 2, (1, 1))])
    sparse = [chunk(n, [1, 2, 3], 9) for n in range(3)]
    assert not can_verify_as_rows([*sparse, chunk(4, [1, 2, 3, 4, 5], 9, long_draft)])
