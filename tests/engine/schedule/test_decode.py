"""Who decodes, and who gives its pages back."""

from __future__ import annotations

from tests.engine.schedule.world import World, make_sequence


def test_the_youngest_is_preempted_and_comes_back_before_later_arrivals() -> None:
    """Otherwise the oldest could starve, and a preempted sequence be overtaken for ever."""
    world = World(pages=6, page_size=2, lanes=4, step_tokens=100, expected=0)
    old, young, later = (make_sequence(n, 3, 7) for n in range(3))
    world.add(old)
    world.add(young)
    world.step()
    world.add(later)
    while world.scheduler.num_preemptions == 0:
        assert world.step() is not None
    assert old.lane is not None
    assert (young.lane, young.num_computed, young.page_table) == (None, 0, [])
    assert young.num_tokens > 3, "what it has produced is kept"
    while old.number in world.open:
        world.step()
    world.step()
    assert young.lane is not None
    assert world.finished == [0]
    while world.open:
        world.step()
    assert world.finished == [0, 1, 2]


def test_in_halves_everybody_gets_on() -> None:
    """Prompts that arrive between decodes settle both halves; who waited longer goes on."""
    world = World(pages=2000, page_size=4, lanes=50, step_tokens=50, lag=1)
    running = [make_sequence(number, 2, 200, draft=number == 0) for number in range(20)]
    for sequence in running:
        world.add(sequence)
    world.step()
    for number in range(20, 80):
        world.add(make_sequence(number, 2, 1))
        world.step()
        world.step()
    lengths = [len(sequence.completion_ids) for sequence in running[1:]]
    assert min(lengths) > 0.9 * sorted(lengths)[10]
