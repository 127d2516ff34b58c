"""The scheduler alone: a world of arrivals, endings and cancellations without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsvl_pipeline.engine.pages import PagePool
from dsvl_pipeline.engine.scheduler import Decode, Prefill, Scheduler, Step
from dsvl_pipeline.engine.sequence import Sequence
from dsvl_pipeline.errors import CapacityError
from dsvl_pipeline.records import Request, SamplingParams


def make_sequence(number: int, num_prompt_tokens: int, max_new_tokens: int) -> Sequence:
    """Make a sequence that ends by length alone."""
    prompt_ids = np.arange(num_prompt_tokens, dtype=np.int32)
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    return Sequence(
        request=Request(request_id=str(number), prompt_ids=prompt_ids, sampling=sampling),
        number=number,
        max_tokens=num_prompt_tokens + max_new_tokens,
        stop_ids=frozenset(),
        stop_text=None,
        submitted_s=0.0,
    )


class World:
    """Stands for engine and runner: takes steps, "samples" token 0, checks every step."""

    def __init__(self, *, pages: int, page_size: int, lanes: int, step_tokens: int) -> None:
        self.pool = PagePool(num_pages=pages, page_size=page_size)
        self.scheduler = Scheduler(self.pool, max_num_sequences=lanes, max_step_tokens=step_tokens)
        self.lanes, self.step_tokens = lanes, step_tokens
        self.open: dict[int, Sequence] = {}
        self.computed: dict[int, int] = {}
        self.finished: list[int] = []

    def add(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)
        self.open[sequence.number] = sequence

    def finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        del self.open[sequence.number]
        self.finished.append(sequence.number)
        assert sequence.page_table == []
        assert sequence.lane is None

    def step(self) -> Step | None:
        step = self.scheduler.next_step()
        if step is None:
            return None
        self.check(step)
        for chunk in step.chunks:
            if chunk.is_sampled and chunk.sequence.accept(0, None) is not None:
                self.finish(chunk.sequence)
        return step

    def check(self, step: Step) -> None:
        owned = [page for sequence in self.open.values() for page in sequence.page_table]
        assert len(owned) == len(set(owned)) == self.pool.num_used
        lanes = [s.lane for s in self.open.values() if s.lane is not None]
        assert len(lanes) == len(set(lanes)) == self.scheduler.num_running <= self.lanes
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.open)

        assert len({chunk.sequence.number for chunk in step.chunks}) == len(step.chunks)
        for chunk in step.chunks:
            sequence = chunk.sequence
            assert sequence.lane is not None
            assert 0 <= chunk.start < chunk.end == sequence.num_computed <= sequence.num_tokens
            assert len(sequence.page_table) * self.pool.page_size >= chunk.end
            assert chunk.is_sampled == (chunk.end == sequence.num_tokens)
            # Each token is computed once, in order, from the start again after preemption.
            assert chunk.start in (0, self.computed.get(sequence.number, 0))
            self.computed[sequence.number] = chunk.end
        match step:
            case Prefill():
                assert sum(chunk.end - chunk.start for chunk in step.chunks) <= self.step_tokens
            case Decode():
                assert all(chunk.end - chunk.start == 1 for chunk in step.chunks)
                assert all(chunk.start >= chunk.sequence.prefill_end for chunk in step.chunks)
                prefilling = [s for s in self.open.values() if s.lane is not None]
                prefilling = [s for s in prefilling if s.is_prefilling]
                assert len(step.chunks) + len(prefilling) == self.scheduler.num_running


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 12), st.integers(1, 12), st.integers(0, 25)),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(
    arrivals=ARRIVALS,
    pages=st.integers(1, 12),
    page_size=st.integers(1, 4),
    lanes=st.integers(1, 5),
    step_tokens=st.integers(1, 20),
)
def test_every_sequence_finishes_exactly_once(
    arrivals: list[tuple[int, int, int, int]],
    pages: int,
    page_size: int,
    lanes: int,
    step_tokens: int,
) -> None:
    """Few pages, tiny steps, endings at any time: no page lost or shared, nobody starves."""
    world = World(pages=pages, page_size=page_size, lanes=lanes, step_tokens=step_tokens)
    refused = []
    for number, (idle_steps, num_prompt_tokens, max_new_tokens, cancelled) in enumerate(arrivals):
        for _ in range(idle_steps):
            world.step()
        sequence = make_sequence(number, num_prompt_tokens, max_new_tokens)
        try:
            world.add(sequence)
        except CapacityError:
            assert num_prompt_tokens + max_new_tokens > pages * page_size
            refused.append(number)
        if cancelled in world.open:
            world.finish(world.open[cancelled])
    work = sum(num_prompt + num_new for _, num_prompt, num_new, _ in arrivals)
    for _ in range(work * (len(arrivals) + 1)):
        if world.step() is None:
            break
    assert not world.open
    assert sorted(world.finished + refused) == list(range(len(arrivals)))
    assert world.pool.num_used == 0
    assert world.scheduler.next_step() is None


def test_the_youngest_is_preempted_and_comes_back_before_later_arrivals() -> None:
    """Otherwise the oldest could starve, and a preempted sequence be overtaken for ever."""
    world = World(pages=6, page_size=2, lanes=4, step_tokens=100)
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


def test_a_long_prompt_is_prefilled_in_chunks_and_sampled_once() -> None:
    """A step's memory is bounded by its tokens, whatever the prompts' lengths."""
    world = World(pages=100, page_size=4, lanes=4, step_tokens=5)
    world.add(make_sequence(0, 12, 1))
    world.add(make_sequence(1, 2, 2))
    steps = [world.step() for _ in range(4)]
    spans = [
        [(c.sequence.number, c.start, c.end, c.is_sampled) for c in s.chunks] for s in steps if s
    ]
    assert spans == [
        [(0, 0, 5, False)],
        [(0, 5, 10, False)],
        [(0, 10, 12, True), (1, 0, 2, True)],
        [(1, 2, 3, True)],
    ]
    assert isinstance(steps[3], Decode)


def test_admission_reserves_the_prompt_and_one_page() -> None:
    """A sequence without room for its next tokens would be preempted at once."""
    world = World(pages=4, page_size=2, lanes=4, step_tokens=100)
    first, second = make_sequence(0, 2, 4), make_sequence(1, 4, 3)
    world.add(first)
    world.add(second)
    world.step()
    assert len(first.page_table) == 2
    assert second.lane is None, "it needs three pages, two are free"
    exact = World(pages=4, page_size=2, lanes=4, step_tokens=100)
    exact.add(make_sequence(0, 7, 1))
    assert isinstance(exact.step(), Prefill), "a sequence that just fits alone is admitted"


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


def test_a_sequence_that_can_never_fit_is_refused() -> None:
    """At the door, so that it neither waits for ever nor stops the engine."""
    world = World(pages=2, page_size=4, lanes=1, step_tokens=8)
    with pytest.raises(CapacityError, match="a sequence of 9 tokens needs 3 KV pages"):
        world.add(make_sequence(0, 4, 5))
    assert world.scheduler.num_waiting == 0
