"""Ids are remembered, whatever the number of ids and batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.unique import SeenIds, number_equal_rows, refuse_repeats

IDS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "a#2", "a#3", "a#2#2"]), max_size=8))


def row(row_id: str) -> Row:
    """A row that is nothing but its id."""
    return Row(row_id=row_id, kind="image", sources=(row_id,), content_id=b"")


@given(st.lists(st.lists(st.integers(0, 60).map(str), max_size=30), max_size=30))
def test_repeats_are_those_a_set_would_find(batches: list[list[str]]) -> None:
    """The sorted runs are a set, only smaller."""
    seen, known = SeenIds(), set[str]()
    for batch in batches:
        expected = []
        for position, name in enumerate(batch):
            if name in known:
                expected.append(position)
            known.add(name)
        assert seen.repeats(batch) == expected


def test_memory_is_eight_bytes_an_id() -> None:
    """Half a million ids in batches as planning makes them, and few runs to search."""
    seen = SeenIds()
    for start in range(0, 500_000, 5000):
        assert seen.repeats([f"sku-{n}" for n in range(start, start + 5000)]) == []
    assert sum(run.nbytes for run in seen._runs) == 8 * 500_000
    assert len(seen._runs) <= 8


@given(IDS)
def test_every_row_gets_an_id_of_its_own(batches: list[list[str]]) -> None:
    """Also where an id looks like the number of another; each repetition is an error row."""
    rows = list(refuse_repeats([[row(name) for name in batch] for batch in batches]))
    names = [name for batch in batches for name in batch]
    assert [one.sources[0] for one in rows] == names
    assert len({one.row_id for one in rows}) == len(rows)
    for one in rows:
        assert (one.failure is None) == (one.row_id == one.sources[0])
        assert one.failure is None or one.failure.code == "duplicate_id"


def test_repetitions_are_numbered_in_order() -> None:
    """The first keeps the id."""
    rows = refuse_repeats([[row("a"), row("a")], [row("b"), row("a")]])
    assert [one.row_id for one in rows] == ["a", "a#2", "b", "a#3"]


def test_equal_rows_are_told_apart_by_their_occurrence() -> None:
    """Without an id column two equal lines are two rows, not a mistake."""
    rows = [one for batch in number_equal_rows([[row("a"), row("b")], [row("a")]]) for one in batch]
    assert len({one.row_id for one in rows}) == 3
    assert all(one.failure is None for one in rows)
