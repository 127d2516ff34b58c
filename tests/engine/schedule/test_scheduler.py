"""The scheduler as a whole: steps of any kind, in a world without a model."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsvl_pipeline.engine.schedule.step import Decode
from dsvl_pipeline.errors import CapacityError
from tests.engine.schedule.world import World, make_sequence

ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps before it
        st.integers(1, 12),  # prompt
        st.integers(1, 12),  # completion
        st.integers(0, 25),  # who is cancelled then
        st.integers(0, 1),  # kind of prompt
        st.integers(0, 6),  # shared text
        st.booleans(),  # draft
    ),
    max_size=14,
)


@settings(max_examples=300, deadline=None)
@given(
    arrivals=ARRIVALS,
    pages=st.integers(1, 12),
    page_size=st.integers(1, 4),
    lanes=st.integers(1, 5),
    step_tokens=st.integers(1, 20),
    lag=st.integers(0, 1),
    shares=st.booleans(),
    expected=st.sampled_from([None, 0, 5]),
)
@example(  # the last one waits with the page that it shares, and nothing runs
    arrivals=[(0, 1, 1, 0, 0, 0, False)] * 13 + [(0, 2, 2, 0, 0, 1, False)],
    pages=1,
    page_size=4,
    lanes=2,
    step_tokens=1,
    lag=0,
    shares=True,
    expected=None,
)
def test_every_sequence_finishes_exactly_once(
    arrivals: list[tuple[int, int, int, int, int, int, bool]],
    pages: int,
    page_size: int,
    lanes: int,
    step_tokens: int,
    lag: int,
    shares: bool,
    expected: int | None,
) -> None:
    """Few pages, tiny steps, endings at any time: no page lost or wrong, nobody starves."""
    world = World(
        pages=pages,
        page_size=page_size,
        lanes=lanes,
        step_tokens=step_tokens,
        lag=lag,
        expected=expected,
    )
    refused = []
    for number, (idle, num_prompt, num_new, cancelled, kind, text, draft) in enumerate(arrivals):
        for _ in range(idle):
            world.step()
        sequence = make_sequence(
            number,
            num_prompt,
            num_new,
            page_size=page_size if shares else 0,
            kind=kind,
            shared_text=text,
            draft=draft,
        )
        try:
            world.add(sequence)
        except CapacityError:
            assert num_prompt + num_new > pages * page_size
            refused.append(number)
        if cancelled in world.open:
            world.finish(world.open[cancelled])
    work = sum(arrival[1] + arrival[2] for arrival in arrivals)
    for _ in range(work * (len(arrivals) + 1)):
        world.step()
        if not world.open:
            break
    assert not world.open
    assert sorted(world.finished + refused) == list(range(len(arrivals)))
    assert world.scheduler.next_step() is None
    assert world.pool.num_used <= 8, "each shared text may keep its last page"


def test_a_long_prompt_is_prefilled_in_chunks_and_sampled_once() -> None:
    """A step's memory is bounded by its tokens, whatever the prompts' lengths."""
    world = World(pages=100, page_size=4, lanes=4, step_tokens=5)
    world.add(make_sequence(0, 12, 2))
    world.add(make_sequence(1, 2, 2))
    steps = [world.step() for _ in range(4)]
    spans = [
        [(c.sequence.number, c.start, c.end, c.is_sampled) for c in s.chunks] for s in steps if s
    ]
    assert spans == [
        [(0, 0, 5, False)],
        [(0, 5, 10, False)],
        [(0, 10, 12, True), (1, 0, 2, True)],
        [(0, 12, 13, True), (1, 2, 3, True)],
    ]
    assert isinstance(steps[3], Decode)


@pytest.mark.parametrize("num_prompt_tokens", [1, 50])
def test_arrivals_without_end_do_not_starve_what_runs(num_prompt_tokens: int) -> None:
    """Nor do long prompts in many chunks: the old one gets a token after 16 prefills at most."""
    world = World(pages=1000, page_size=4, lanes=4, step_tokens=2)
    old = make_sequence(0, 1, 20)
    world.add(old)
    for number in range(1, 400):
        if old.number not in world.open:
            break
        world.add(make_sequence(number, num_prompt_tokens, 1))
        world.step()
    assert world.finished[-1] == 0
    assert number == 2 + 17 * 19 - 1
    while world.open:
        assert world.step() is not None
