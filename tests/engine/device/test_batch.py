"""Which sequences of a decode step are told to share their first pages."""

from __future__ import annotations

import numpy as np
import pytest

from dsvl_pipeline.engine.device.batch import MOST_SHARING, shared_groups
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk
from dsvl_pipeline.records import Request


def chunk(pages: list[int], position: int) -> Chunk:
    """Make the decode chunk of a sequence on these pages of four tokens."""
    request = Request(request_id="row", prompt_ids=np.zeros(1, dtype=np.int32))
    sequence = Sequence(
        request=request, number=1, max_tokens=100, stop_ids=frozenset(), submitted_s=0.0
    )
    sequence.page_table = pages
    return Chunk(sequence, position, position + 1, is_sampled=True)


@pytest.mark.parametrize(
    ("chunks", "groups"),
    [
        ([chunk([1, 2], 6)], [(0, 0)]),
        ([chunk([1, 2], 6), chunk([3, 4], 6)], [(0, 0), (1, 0)]),
        ([chunk([1, 2], 6), chunk([1, 4], 6), chunk([1, 5], 7)], [(0, 4)]),
        # Own pages may be alike by no means, but the one a query stands in is never shared.
        ([chunk([1, 2], 3), chunk([1, 4], 6)], [(0, 0), (1, 0)]),
        # A third that has less in common does not make the others read more.
        ([chunk([1, 2, 3], 9), chunk([1, 2, 4], 9), chunk([1, 5], 6)], [(0, 8), (2, 0)]),
        ([chunk([1, 2, 3], 9), chunk([7], 2), chunk([1, 2, 4], 9)], [(0, 0), (1, 0), (2, 0)]),
        ([chunk([1, 9], 6)] * (MOST_SHARING + 1), [(0, 4), (MOST_SHARING, 0)]),
    ],
)
def test_neighbours_share_their_first_pages(
    chunks: list[Chunk], groups: list[tuple[int, int]]
) -> None:
    """Whole pages before every query of the group, read once for all of it."""
    assert shared_groups(chunks, page_size=4) == groups
