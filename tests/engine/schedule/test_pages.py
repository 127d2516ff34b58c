"""Pages: all or nothing, none lost, none shared by accident."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.errors import CapacityError


def test_grow_is_all_or_nothing() -> None:
    """The scheduler preempts another sequence and asks again; half a table would leak."""
    pool = PagePool(num_pages=3, page_size=4)
    table: list[int] = []
    other: list[int] = []
    assert pool.grow(table, 5)
    assert len(table) == 2
    assert not pool.grow(other, 5)
    assert (other, pool.num_used) == ([], pool.num_pages - 1)
    assert pool.grow(other, 4)
    assert pool.grow(table, 8), "8 tokens fit into the two pages it has"
    assert not pool.grow(table, 9)
    assert len(table) == 2


def test_a_sequence_that_can_never_fit_is_an_error() -> None:
    """Waiting for pages would wait for ever. The message says what to change."""
    pool = PagePool(num_pages=64, page_size=64)
    with pytest.raises(
        CapacityError,
        match=r"^a sequence of 4721 tokens needs 74 KV pages of 64 tokens, but this engine has 64; "
        r"raise engine.kv_cache_gib or lower generation.max_new_tokens$",
    ):
        pool.grow([], 4721)
    pool.check_fits(64 * 64)


@given(
    page_size=st.integers(1, 5),
    calls=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60),
)
def test_no_page_is_lost_and_none_shared(page_size: int, calls: list[tuple[int, int]]) -> None:
    """Whatever grows and shrinks: each page is free or in exactly one table."""
    pool = PagePool(num_pages=8, page_size=page_size)
    tables: list[list[int]] = [[] for _ in range(4)]
    for index, num_tokens in calls:
        if num_tokens == 0:
            pool.release(tables[index])
        elif num_tokens <= 8 * page_size:
            before = len(tables[index])
            needed = max(pool.pages_for(num_tokens), before)
            could = needed - before <= pool.num_pages - pool.num_used
            assert pool.grow(tables[index], num_tokens) == could
            assert len(tables[index]) == (needed if could else before)
        owned = [page for table in tables for page in table]
        assert len(owned) == len(set(owned)) == pool.num_used
    for table in tables:
        pool.release(table)
    everything: list[int] = []
    assert pool.grow(everything, 8 * page_size)
    assert sorted(everything) == list(range(8))
