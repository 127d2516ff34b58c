"""The plan of each step: prefill or decode, and of which sequences.

A prompt is prefilled before the next decode, because a decode step costs about the same for one
sequence as for many: a full batch is worth the wait. Not for ever, though: short answers that
arrive without end would keep the long ones from ever decoding.

Steps are planned before the tokens of the step before are known. A sequence that ends with such a
token is then part of one step too many, whose token for it is ignored.
"""

from __future__ import annotations

from dsvl_pipeline.engine.schedule.admission import Admission
from dsvl_pipeline.engine.schedule.decode import DecodePlanner
from dsvl_pipeline.engine.schedule.lengths import ExpectedLength
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import PageCopy, PrefixCache
from dsvl_pipeline.engine.schedule.queue import WaitingQueue
from dsvl_pipeline.engine.schedule.running import RunningSequences
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk, Prefill, Step, prefill_chunk

# Prefills in a row while something could decode.
_MOST_PREFILLS = 16
# Decodes in a row while fewer prompts than fill a prefill could be admitted.
_MOST_DECODES = 16


class Scheduler:
    """Queue, preempt and finish sequences; plan one step at a time."""

    def __init__(
        self,
        pool: PagePool,
        *,
        max_num_sequences: int,
        max_step_tokens: int,
        rows_per_tile: int = 1,
    ) -> None:
        """Start without sequences.

        Args:
            pool: Pages for all of them.
            max_num_sequences: Most that run at once.
            max_step_tokens: Most tokens of a prefill.
            rows_per_tile: Sequences that a decode step's matrix products take at no more cost
                than one; one more of them costs as much as that many.
        """
        self._pool = pool
        self._prefixes = PrefixCache(pool)
        self._lengths = ExpectedLength()
        self._waiting = WaitingQueue(max_num_sequences=max_num_sequences)
        self._running = RunningSequences(
            self._waiting,
            pool=pool,
            prefixes=self._prefixes,
            max_num_sequences=max_num_sequences,
        )
        self._admission = Admission(
            self._waiting,
            self._running,
            pool=pool,
            prefixes=self._prefixes,
            lengths=self._lengths,
            rows_per_tile=rows_per_tile,
        )
        self._decodes = DecodePlanner(self._running, pool)
        self._max_step_tokens = max_step_tokens
        self._step_number = 0
        self._num_prefills = 0  # since the last decode
        self._num_decodes = 0  # since the last prefill

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running.sequences)

    @property
    def num_pages_used(self) -> int:
        return self._running.num_pages_used

    @property
    def num_preemptions(self) -> int:
        return self._running.num_preemptions

    @property
    def num_reused_tokens(self) -> int:
        return self._admission.num_reused_tokens

    def upcoming(self, count: int) -> list[Sequence]:
        """Return the first of those that wait."""
        return self._waiting.first(count)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            CapacityError: It would not fit even if it were alone.
        """
        self._pool.check_fits(sequence.max_tokens)
        self._waiting.add(sequence)

    def next_step(self) -> Step | None:
        """Plan the coming step, or return None when there is nothing to do.

        The plan counts as done: ``num_computed``, ``num_planned`` and the page tables are those
        after the step.
        """
        self._step_number += 1
        if self._num_prefills < _MOST_PREFILLS and self._is_worth_a_prefill():
            prefill = self._next_prefill()
            if prefill is not None:
                self._num_prefills += 1
                self._num_decodes = 0
                return prefill
        self._num_prefills = 0
        self._num_decodes += 1
        # Where all that runs is still prefilling, there is nothing to decode.
        return self._decodes.next_step(self._step_number) or self._next_prefill()

    def finish(self, sequence: Sequence, *, is_whole: bool) -> None:
        """Let go of a sequence, running or waiting, and free its pages.

        Args:
            sequence: Neither its lane nor its pages are its own afterwards.
            is_whole: Whether its length tells something about those to come.
        """
        if is_whole:
            self._lengths.note(len(sequence.completion_ids))
        if sequence.lane is None:
            self._waiting.remove(sequence)
        else:
            self._running.stop(sequence)

    def step_down(self, step: Step) -> bool:
        """Take a step back that the device had no memory for, and plan smaller ones from now on.

        The steps before it must have been read. All of its sequences wait again.

        Returns:
            Whether smaller steps are possible.
        """
        self._prefixes.forget()  # what the step was to write is not there
        for chunk in reversed(step.chunks):
            if not chunk.sequence.is_finished:
                chunk.sequence.num_planned = chunk.sequence.num_tokens
                self._running.preempt(chunk.sequence)
        if isinstance(step, Prefill):
            self._max_step_tokens = sum(chunk.end - chunk.start for chunk in step.chunks) // 2
            return self._max_step_tokens >= self._pool.page_size
        del self._running.free_lanes[len(step.chunks) // 2 :]
        return bool(self._running.free_lanes)

    def _is_worth_a_prefill(self) -> bool:
        """Return whether to prefill now rather than to wait for more free lanes and pages."""
        running = self._running.sequences
        if any(sequence.is_prefilling for sequence in running):
            return True
        if not self._waiting or not self._running.free_lanes:
            return False
        has_many = self._admission.is_worthwhile(self._max_step_tokens)
        return has_many or self._num_decodes >= _MOST_DECODES or not running

    def _next_prefill(self) -> Prefill | None:
        budget = self._max_step_tokens
        chunks: list[Chunk] = []
        copies: list[PageCopy] = []
        for sequence in self._running.sequences:
            if budget and sequence.is_prefilling:
                chunks.append(self._prefill_chunk(sequence, budget))
                budget -= chunks[-1].end - chunks[-1].start
        if budget:
            for sequence, copy in self._admission.admit(self._step_number):
                if copy is not None:
                    copies.append(copy)
                chunks.append(self._prefill_chunk(sequence, budget))
                budget -= chunks[-1].end - chunks[-1].start
                if not budget:
                    break
        return Prefill(tuple(chunks), tuple(copies)) if chunks else None

    def _prefill_chunk(self, sequence: Sequence, budget: int) -> Chunk:
        chunk = prefill_chunk(sequence, budget)
        self._prefixes.add(sequence, chunk.start, chunk.end, self._step_number)
        return chunk
