"""A world of arrivals, endings and cancellations without a model, to test the scheduler in."""

from __future__ import annotations

import numpy as np

from dsvl_pipeline.engine.schedule.drafts import Draft
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import page_keys
from dsvl_pipeline.engine.schedule.scheduler import Scheduler
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Decode, Prefill, Step
from dsvl_pipeline.records import Request, SamplingParams


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
        self.scheduler = Scheduler(self.pool, max_num_sequences=lanes, max_step_tokens=step_tokens)
        for _ in range(32 if expected is not None else 0):
            self.scheduler._lengths.note(expected or 0)
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
