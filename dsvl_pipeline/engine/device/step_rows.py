"""A decode step as rows of integers: one copy to the device, where a CUDA graph unpacks them.

Letters: ``R`` rows, those that only fill up a graph included, ``P`` pages that a sequence may own,
``Q`` queries of a row that verifies a draft, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.device.batch import MOST_SHARING, fill_tables, shared_groups, token_ids
from dsvl_pipeline.engine.schedule.step import MAX_DRAFT_TOKENS, Chunk
from dsvl_pipeline.ops.values import PackedInputs, SharedPages

NUM_QUERIES = MAX_DRAFT_TOKENS + 1
"""``Q``"""

# Columns of a row that decodes: lane and position; of the group that has the row's number, its
# first row and the tokens of its shared pages; then the page table.
_LANE, _POSITION, _GROUP, _SHARED, _TABLE = range(5)
# Columns of a row that verifies: tokens behind it, how many of its queries there are (the last
# ones), the ids of all, then the page table.
_KV_LEN, _COUNT, _IDS = range(3)
_VERIFY_TABLE = _IDS + NUM_QUERIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What rows are made for.

    Attributes:
        page_size: Tokens in one page.
        padding_page: Where rows that fill up write to.
        padding_lane: The lane of these rows.
        max_pages: ``P``.
    """

    page_size: int
    padding_page: int
    padding_lane: int
    max_pages: int

    @property
    def decode_width(self) -> int:
        return _TABLE + self.max_pages

    @property
    def verify_width(self) -> int:
        return _VERIFY_TABLE + self.max_pages


def pack_decode(
    chunks: Seq[Chunk], layout: Layout, num_rows: int
) -> tuple[NDArray[np.int32], bool]:
    """Describe sequences that decode one token each.

    Returns:
        ``int32[R, 4 + P]``, and whether some of them share pages.
    """
    count = len(chunks)
    rows = np.full((num_rows, layout.decode_width), layout.padding_page, dtype=np.int32)
    rows[:, _LANE] = layout.padding_lane
    rows[:, _POSITION] = 0
    rows[:count, _LANE] = [chunk.sequence.lane for chunk in chunks]  # type: ignore[assignment]
    rows[:count, _POSITION] = [chunk.start for chunk in chunks]
    groups = shared_groups(chunks, layout.page_size)
    groups += [(number, 0) for number in range(count, num_rows)]
    is_shared = len(groups) < num_rows
    groups += repeat((num_rows, 0), num_rows - len(groups))  # without any row
    rows[:, _GROUP : _SHARED + 1] = groups
    fill_tables(rows[:, _TABLE:], [chunk.sequence.page_table for chunk in chunks])
    return rows, is_shared


def unpack_decode(rows: Tensor, layout: Layout, is_shared: bool) -> tuple[Tensor, PackedInputs]:
    """Give each row's lane, ``int64[R]``, and where its token belongs."""
    positions, table, num_rows = rows[:, _POSITION].long(), rows[:, _TABLE:], len(rows)
    pages = table.gather(1, (positions // layout.page_size)[:, None])[:, 0].long()
    shared = None
    if is_shared:
        shared = SharedPages(
            group_starts=torch.cat((rows[:, _GROUP], rows.new_full((1,), num_rows))),
            shared_lens=rows[:, _SHARED].contiguous(),
            max_group_size=MOST_SHARING,
        )
    packed = PackedInputs(
        positions=positions,
        slots=pages * layout.page_size + positions % layout.page_size,
        query_starts=torch.arange(num_rows + 1, dtype=torch.int32, device=rows.device),
        page_table=table,
        kv_lens=rows[:, _POSITION] + 1,
        max_query_len=1,
        max_kv_len=layout.max_pages * layout.page_size,
        shared=shared,
    )
    return rows[:, _LANE].long(), packed


def can_verify_as_rows(chunks: Seq[Chunk]) -> bool:
    """Return whether ``Q`` queries for each waste little, and none stands before position 0."""
    num_queries = sum(chunk.end - chunk.start for chunk in chunks)
    is_long = all(chunk.end >= NUM_QUERIES for chunk in chunks)
    return is_long and 2 * num_queries >= NUM_QUERIES * len(chunks)


def pack_verify(
    chunks: Seq[Chunk], layout: Layout, num_rows: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Describe sequences that decode a token and verify their drafts.

    A row's queries end with its last token; the first ones may stand for nothing. They are computed
    like the others, and their keys and values go to the padding page.

    Returns:
        ``int32[R, 10 + P]``, and where the chunks' tokens are among all queries, ``int64[T]``.
    """
    count = len(chunks)
    rows = np.full((num_rows, layout.verify_width), layout.padding_page, dtype=np.int32)
    rows[:, :_VERIFY_TABLE] = 0
    rows[:, _KV_LEN] = NUM_QUERIES
    rows[:count, _KV_LEN] = [chunk.end for chunk in chunks]
    counts = np.array([chunk.end - chunk.start for chunk in chunks])
    rows[:count, _COUNT] = counts
    is_real = np.arange(NUM_QUERIES) >= NUM_QUERIES - counts[:, None]
    rows[:count, _IDS:_VERIFY_TABLE][is_real] = token_ids(chunks)
    fill_tables(rows[:, _VERIFY_TABLE:], [chunk.sequence.page_table for chunk in chunks])
    return rows, np.flatnonzero(is_real)


def unpack_verify(rows: Tensor, layout: Layout) -> tuple[Tensor, PackedInputs]:
    """Give all queries' ids, ``int64[R * Q]``, and where they belong."""
    table, page_size = rows[:, _VERIFY_TABLE:], layout.page_size
    place = torch.arange(NUM_QUERIES, device=rows.device)
    positions = rows[:, _KV_LEN, None].long() - NUM_QUERIES + place  # (R, Q)
    is_real = place >= NUM_QUERIES - rows[:, _COUNT, None]
    pages = table.gather(1, positions // page_size).long()
    pages = torch.where(is_real, pages, layout.padding_page)
    starts = torch.arange(len(rows) + 1, dtype=torch.int32, device=rows.device)
    packed = PackedInputs(
        positions=positions.flatten(),
        slots=(pages * page_size + positions % page_size).flatten(),
        query_starts=NUM_QUERIES * starts,
        page_table=table,
        kv_lens=rows[:, _KV_LEN].contiguous(),
        max_query_len=NUM_QUERIES,
        max_kv_len=layout.max_pages * page_size,
    )
    return rows[:, _IDS:_VERIFY_TABLE].flatten().long(), packed
