"""A step's chunks, packed into the tensors that the model reads.

Letters: ``T`` tokens of the step, ``S`` sequences, ``P`` pages of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.device.transfer import upload
from dsvl_pipeline.engine.schedule.step import Chunk
from dsvl_pipeline.ops.values import PackedInputs

MOST_SHARING = 16
"""Sequences of one group: so many queries are multiplied at once at no further cost."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownTokens:
    """Tokens that the host knows, ready for the model.

    Attributes:
        ids: ``int64[T]``.
        packed: Where they belong.
    """

    ids: Tensor
    packed: PackedInputs


def pack(chunks: Seq[Chunk], *, page_size: int, device: torch.device) -> KnownTokens:
    """Return a step's tokens and where each stands in its sequence and in the pages.

    Args:
        chunks: Of the step, at least one.
        page_size: Tokens in one page.
        device: Where to.
    """
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int32)
    ends = np.array([chunk.end for chunk in chunks], dtype=np.int32)
    lengths = ends - starts
    query_starts = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_starts[1:])
    owner = np.repeat(np.arange(len(chunks)), lengths)  # (T,)
    positions = np.arange(query_starts[-1], dtype=np.int32) - query_starts[owner] + starts[owner]

    tables = [chunk.sequence.page_table for chunk in chunks]
    page_table = np.zeros((len(chunks), max(map(len, tables))), dtype=np.int32)
    fill_tables(page_table, tables)
    slots = page_table[owner, positions // page_size] * page_size + positions % page_size
    parts = (token_ids(chunks), positions, slots, query_starts, ends, page_table.ravel())
    # One copy: every one of them has its own cost.
    joined = upload(np.concatenate(parts), device)
    ids, at, to, first, kv_lens, table = torch.split(joined, [len(part) for part in parts])
    packed = PackedInputs(
        positions=at.long(),
        slots=to.long(),
        query_starts=first,
        page_table=table.view(page_table.shape),
        kv_lens=kv_lens,
        max_query_len=int(lengths.max()),
        max_kv_len=int(ends.max()),
    )
    return KnownTokens(ids.long(), packed)


def token_ids(chunks: Seq[Chunk]) -> NDArray[np.int32]:
    """Return the known and the drafted ids of a step, ``int32[T]``."""
    parts: list[NDArray[np.int32]] = []
    for chunk in chunks:
        known = chunk.end - len(chunk.draft_ids)
        parts.append(chunk.sequence.token_ids[chunk.start : known])
        if chunk.draft_ids:
            parts.append(np.array(chunk.draft_ids, dtype=np.int32))
    return np.concatenate(parts)


def fill_tables(into: NDArray[np.int32], tables: Seq[list[int]]) -> None:
    """Write page tables into the rows of ``int32[S, P]``; what lies behind them is left alone."""
    for row, table in zip(into, tables, strict=False):
        row[: len(table)] = table


def shared_groups(chunks: Seq[Chunk], page_size: int) -> list[tuple[int, int]]:
    """Find neighbours that begin with the same pages; what has none is a group of its own.

    Sequences are admitted one after another, so those that share an image are neighbours.

    Returns:
        First chunk, and tokens in the pages in common, of each group in order.
    """
    groups: list[tuple[int, int]] = []
    for number, chunk in enumerate(chunks):
        if groups:
            start, num_shared = groups[-1]
            common = _common_pages(chunks[start], chunk, page_size)
            is_open = start == number - 1 or common >= num_shared
            if common and is_open and number - start < MOST_SHARING:
                groups[-1] = (start, common if start == number - 1 else num_shared)
                continue
        groups.append((number, 0))
    return [(start, pages * page_size) for start, pages in groups]


def _common_pages(first: Chunk, second: Chunk, page_size: int) -> int:
    """Count the pages at the beginning that both have, without those that their queries are in."""
    num_full = min(first.start, second.start) // page_size
    pairs = zip(first.sequence.page_table, second.sequence.page_table, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], islice(pairs, num_full)))
