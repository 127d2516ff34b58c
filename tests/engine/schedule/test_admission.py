"""Who may start, and with which pages."""

from __future__ import annotations

import pytest

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.scheduler import Scheduler
from dsvl_pipeline.engine.schedule.step import Prefill
from dsvl_pipeline.errors import CapacityError
from tests.engine.schedule.world import World, make_sequence


def test_admission_reserves_the_prompt_and_one_page() -> None:
    """A sequence without room for its next tokens would be preempted at once."""
    world = World(pages=4, page_size=2, lanes=4, step_tokens=100, expected=0)
    first, second = make_sequence(0, 2, 4), make_sequence(1, 4, 3)
    world.add(first)
    world.add(second)
    world.step()
    assert len(first.page_table) == 2
    assert second.lane is None, "it needs three pages, two are free"
    exact = World(pages=4, page_size=2, lanes=4, step_tokens=100)
    exact.add(make_sequence(0, 7, 1))
    assert isinstance(exact.step(), Prefill), "a sequence that just fits alone is admitted"


def test_a_sequence_that_can_never_fit_is_refused() -> None:
    """At the door, so that it neither waits for ever nor stops the engine."""
    world = World(pages=2, page_size=4, lanes=1, step_tokens=8)
    with pytest.raises(CapacityError, match="a sequence of 9 tokens needs 3 KV pages"):
        world.add(make_sequence(0, 4, 5))
    assert world.scheduler.num_waiting == 0


@pytest.mark.parametrize(
    ("pages", "most"),
    [
        (36, 8),  # room for 9: one more would cost as much as four
        (44, 11),  # three more are worth a tile
        (12, 3),  # less than a tile
    ],
)
def test_a_step_has_whole_tiles_of_rows(pages: int, most: int) -> None:
    """Matrix products take rows by the tile; a tile that is nearly empty only costs."""
    pool = PagePool(num_pages=pages, page_size=4)
    scheduler = Scheduler(pool, max_num_sequences=20, max_step_tokens=1000, rows_per_tile=4)
    for number in range(20):
        scheduler.add(make_sequence(number, 8, 8))
    assert scheduler.next_step() is not None
    assert scheduler.num_running == most


def test_lengths_that_are_known_are_reserved() -> None:
    """Where nothing can end a sequence early, hoping for it would only preempt."""
    world = World(pages=6, page_size=2, lanes=4, step_tokens=100, expected=0)
    for number in range(3):
        sequence = make_sequence(number, 3, 3)
        sequence.stop_ids = frozenset()
        world.add(sequence)
    world.step()
    assert world.scheduler.num_running == 2
    while world.open:
        world.step()
    assert world.scheduler.num_preemptions == 0


def test_shared_pages_count_once_for_admission() -> None:
    """Else many prompts on one picture would leave most of the memory unused."""
    pool = PagePool(num_pages=60, page_size=4)
    scheduler = Scheduler(pool, max_num_sequences=64, max_step_tokens=1000, rows_per_tile=1)
    for number in range(32):
        scheduler.add(make_sequence(number, 41, 4, page_size=4))
    while scheduler.num_waiting and scheduler.next_step() is not None:
        if scheduler.num_running > 20:
            break
    assert scheduler.num_running > 20, "10 pages are shared, each has two of its own"
