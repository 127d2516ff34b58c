"""The scheduler alone: a world of arrivals, endings and cancellations without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsvl_pipeline.engine.schedule.drafts import Draft
from dsvl_pipeline.engine.schedule.lengths import ExpectedLength
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import page_keys
from dsvl_pipeline.engine.schedule.scheduler import Scheduler
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Decode, Prefill, Step
from dsvl_pipeline.errors import CapacityError
from dsvl_pipeline.records import ImageInput, Request, SamplingParams


def make_sequence(
    number: int,
    num_prompt_tokens: int,
    max_new_tokens: int,
    *,
    page_size: int = 0,
    kind: int = 0,
    shared_text: int = 0,
    draft: bool = False,
) -> Sequence:
    """Make a sequence that ends by length alone.

    Args:
        number: Place in the order of arrival.
        num_prompt_tokens: Length of its prompt.
        max_new_tokens: Length of its completion.
        page_size: Above 0, its prompt's pages may be shared.
        kind: Prompts of one kind begin alike.
        shared_text: Tokens before the first picture, for which another rule of sharing holds.
        draft: Whether it carries one: its tokens are then 0, 1, 2 ...
    """
    prompt_ids = np.arange(num_prompt_tokens, dtype=np.int32) + 1000 * kind
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    request = Request(request_id=str(number), prompt_ids=prompt_ids, sampling=sampling)
    return Sequence(
        request=request,
        number=number,
        max_tokens=num_prompt_tokens + max_new_tokens,
        stop_ids=frozenset([-1]),  # never said, but who plans cannot know
        page_keys=page_keys(request, image_token_id=-1, page_size=page_size) if page_size else (),
        shared_text=min(shared_text, num_prompt_tokens - 1) if page_size else 0,
        draft=Draft(np.arange(max_new_tokens, dtype=np.int32) // 2 * 2) if draft else None,
        submitted_s=0.0,
    )


class World:
    """Stands for engine and device: takes steps, checks every one of them.

    The n-th token of a completion is n. Tokens are read ``lag`` steps after they were planned. The
    device's memory is followed to the last token: a page must hold what its readers expect.
    Completions before these were ``expected`` tokens long.
    """

    def __init__(
        self,
        *,
        pages: int,
        page_size: int,
        lanes: int,
        step_tokens: int,
        lag: int = 0,
        expected: int | None = None,
    ) -> None:
        self.pool = PagePool(num_pages=pages, page_size=page_size)
        lengths = ExpectedLength()
        for _ in range(32 if expected is not None else 0):
            lengths.note(expected or 0)
        self.scheduler = Scheduler(
            self.pool, max_num_sequences=lanes, max_step_tokens=step_tokens, lengths=lengths
        )
        self.lanes, self.step_tokens, self.lag = lanes, step_tokens, lag
        self.open: dict[int, Sequence] = {}
        self.finished: list[int] = []
        self.unread: list[Step] = []
        self.memory: dict[tuple[int, int], tuple[int, ...]] = {}

    def add(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)
        self.open[sequence.number] = sequence

    def finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence, is_whole=True)
        sequence.is_finished = True
        del self.open[sequence.number]
        self.finished.append(sequence.number)
        assert sequence.page_table == []
        assert sequence.lane is None

    def step(self) -> Step | None:
        step = self.scheduler.next_step()
        if step is None and self.unread:
            self.read(keep=0)
            step = self.scheduler.next_step()
        if step is not None:
            self.check(step)
            self.run(step)
            self.unread.append(step)
        self.read(keep=self.lag if step else 0)
        return step

    def run(self, step: Step) -> None:
        """Write keys as a device does, after checking what each token would see."""
        for source, target in step.copies if isinstance(step, Prefill) else ():
            for offset in range(self.pool.page_size):
                self.memory[target, offset] = self.memory.get((source, offset), ())
        contents = {}
        for chunk in step.chunks:
            ids = [*self.ids(chunk.sequence, chunk.end - len(chunk.draft_ids))]
            contents[chunk.sequence.number] = [*ids, *chunk.draft_ids]
        for chunk in step.chunks:
            ids = contents[chunk.sequence.number]
            for position in range(chunk.start, chunk.end):
                self.memory[self.slot(chunk.sequence, position)] = tuple(ids[: position + 1])
        for chunk in step.chunks:
            ids = contents[chunk.sequence.number]
            for position in range(chunk.end):
                found = self.memory[self.slot(chunk.sequence, position)]
                assert found == tuple(ids[: position + 1])

    def slot(self, sequence: Sequence, position: int) -> tuple[int, int]:
        page, offset = divmod(position, self.pool.page_size)
        return sequence.page_table[page], offset

    @staticmethod
    def ids(sequence: Sequence, count: int) -> list[int]:
        """Its first tokens, those not read yet included."""
        num_prompt = sequence.num_prompt_tokens
        return [*sequence.request.prompt_ids.tolist(), *range(count - num_prompt)][:count]

    def read(self, *, keep: int) -> None:
        while len(self.unread) > keep:
            step = self.unread.pop(0)
            for chunk in step.chunks:
                sequence = chunk.sequence
                num_before = len(sequence.completion_ids)
                for token, drafted in enumerate([*chunk.draft_ids, -1], num_before):
                    if not chunk.is_sampled or sequence.is_finished:
                        break
                    if sequence.accept(token, None) is not None:
                        self.finish(sequence)
                    if token != drafted:
                        break
                if isinstance(step, Decode) and step.has_drafts:
                    sequence.num_planned = sequence.num_tokens
                    if sequence.lane is not None:
                        sequence.num_computed = sequence.num_tokens - 1

    def check(self, step: Step) -> None:
        owned = {page for sequence in self.open.values() for page in sequence.page_table}
        assert len(owned) <= self.pool.num_used
        lanes = [s.lane for s in self.open.values() if s.lane is not None]
        assert len(lanes) == len(set(lanes)) == self.scheduler.num_running <= self.lanes
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.open)

        assert len({chunk.sequence.number for chunk in step.chunks}) == len(step.chunks)
        for chunk in step.chunks:
            sequence = chunk.sequence
            assert sequence.lane is not None
            known = chunk.end - len(chunk.draft_ids)
            assert 0 <= chunk.start < known == sequence.num_computed <= sequence.num_planned
            assert (
                len(sequence.page_table) * self.pool.page_size >= chunk.end <= sequence.max_tokens
            )
            assert chunk.is_sampled == (known >= sequence.prefill_end)
        match step:
            case Prefill():
                assert sum(chunk.end - chunk.start for chunk in step.chunks) <= self.step_tokens
            case Decode():
                assert all(c.end - c.start == 1 + len(c.draft_ids) for c in step.chunks)
                assert all(chunk.start >= chunk.sequence.prefill_end for chunk in step.chunks)


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


def test_the_longest_of_a_wave_goes_first_and_no_wave_overtakes_another() -> None:
    """A wave is two for each lane; of one whose draft is shorter, the draft counts."""
    world = World(pages=100, page_size=4, lanes=2, step_tokens=1)
    drafted = make_sequence(2, 2, 9)
    drafted.draft = Draft(np.zeros(3, dtype=np.int32))
    empty = make_sequence(3, 2, 4)  # a page without a text layer may be long
    empty.draft = Draft(np.zeros(0, dtype=np.int32))
    others = {0: 2, 1: 4, 4: 1, 5: 5, 6: 5}
    for number in range(7):
        special = {2: drafted, 3: empty}
        world.add(special.get(number) or make_sequence(number, 2, others[number]))
    waiting = [sequence.number for sequence in world.scheduler.upcoming(9)]
    assert waiting == [1, 3, 2, 0, 5, 6, 4]
    world.step()
    assert world.open[1].lane is not None, "the first one of the order, not of the arrivals"


def test_neighbours_on_the_same_pictures_stay_together() -> None:
    """Else the second prompt could find the first one's pages given away."""
    world = World(pages=100, page_size=4, lanes=8, step_tokens=1)
    for number, (digest, num_new) in enumerate([(b"a", 3), (b"a", 9), (b"b", 5), (b"b", 1)]):
        sequence = make_sequence(number, 2, num_new)
        pixels = np.zeros((1, 1, 3), dtype=np.uint8)
        image = ImageInput(digest=digest, high_res=None, low_res=pixels)
        sequence.request = replace(sequence.request, images=(image,))
        world.add(sequence)
    assert [sequence.number for sequence in world.scheduler.upcoming(9)] == [2, 3, 0, 1]


def test_requests_on_one_picture_without_end_do_not_starve_another() -> None:
    """Neighbours share a place in their wave, and in no other one."""
    world = World(pages=100, page_size=4, lanes=2, step_tokens=100)
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    image = ImageInput(digest=b"a", high_res=None, low_res=pixels)
    for number in range(200):
        sequence = make_sequence(number, 2, 1 if number == 2 else 8)
        if number != 2:
            sequence.request = replace(sequence.request, images=(image,))
        world.add(sequence)
        for _ in range(2 if number > 1 else 0):  # not enough for all that come
            world.step()
        if 2 in world.finished:
            break
    assert number < 20


def test_what_is_preempted_comes_before_longer_ones_of_its_wave() -> None:
    """Each time that it is overtaken, its tokens are computed once more."""
    world = World(pages=6, page_size=2, lanes=4, step_tokens=100, expected=0)
    for number in range(2):
        world.add(make_sequence(number, 3, 7))
    world.step()
    for number in range(2, 5):
        world.add(make_sequence(number, 3, 8))
    while world.scheduler.num_preemptions == 0:
        world.step()
    assert world.scheduler.upcoming(1)[0].number == 1


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
