"""Which sequences run in the coming step, and on which pages. Torch-free.

First come, first served. Whatever waits and fits is prefilled before the next decode, because a
decode step costs about the same for one sequence as for many: a full batch is worth the wait. Not
for ever, though: short answers that arrive without end would keep the long ones from ever decoding.
When the pages run out, the youngest sequence gives all of its own back and waits again, in front;
its tokens are recomputed by a prefill. The oldest one is thus never disturbed, so every sequence
finishes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dsvl_pipeline.engine.pages import PagePool
from dsvl_pipeline.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``end`` (exclusive) of a sequence, to be computed in one step.

    Attributes:
        is_sampled: Whether a new token follows from it: not so for all but a prompt's last chunk.
    """

    sequence: Sequence
    start: int
    end: int
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute known tokens, at most ``max_step_tokens`` of them over all chunks."""

    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Decode:
    """Compute the newest token of each sequence."""

    chunks: tuple[Chunk, ...]


Step = Prefill | Decode

# Prefills in a row while something could decode.
_MOST_PREFILLS = 16


class Scheduler:
    """Admit, grow, preempt and release sequences; plan one step at a time."""

    def __init__(self, pool: PagePool, *, max_num_sequences: int, max_step_tokens: int) -> None:
        self._pool = pool
        self._max_step_tokens = max_step_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free_lanes = list(range(max_num_sequences - 1, -1, -1))
        self.num_preemptions = 0
        self._num_prefills = 0  # since the last decode

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            CapacityError: It would not fit even if it were alone.
        """
        self._pool.check_fits(sequence.max_tokens)
        self._waiting.append(sequence)

    def next_step(self) -> Step | None:
        """Plan the coming step, or return None when there is nothing to do.

        The plan counts as done: ``num_computed`` and the page tables are those after the step.
        """
        if self._num_prefills < _MOST_PREFILLS:
            prefill = self._next_prefill()
            if prefill is not None:
                self._num_prefills += 1
                return prefill
        self._num_prefills = 0
        # Where all that runs is still prefilling, there is nothing to decode.
        return self._next_decode() or self._next_prefill()

    def finish(self, sequence: Sequence) -> None:
        """Let go of a sequence, running or waiting, and free its pages."""
        if sequence.lane is None:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._release(sequence)

    def _next_prefill(self) -> Prefill | None:
        budget = self._max_step_tokens
        chunks = []
        for sequence in self._running:
            if budget and sequence.is_prefilling:
                chunks.append(_advance(sequence, budget))
                budget -= chunks[-1].end - chunks[-1].start
        while budget and self._waiting and self._admit(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._running.append(sequence)
            chunks.append(_advance(sequence, budget))
            budget -= chunks[-1].end - chunks[-1].start
        return Prefill(tuple(chunks)) if chunks else None

    def _admit(self, sequence: Sequence) -> bool:
        # A page more than its tokens need, or it would be the first one preempted.
        num_tokens = min(sequence.num_tokens + self._pool.page_size, sequence.max_tokens)
        if not self._free_lanes or not self._pool.grow(sequence.page_table, num_tokens):
            return False
        sequence.lane = self._free_lanes.pop()
        sequence.prefill_end = sequence.num_tokens
        return True

    def _next_decode(self) -> Decode | None:
        # By index: preemption takes sequences off the end while we walk.
        position = 0
        while position < len(self._running):
            sequence = self._running[position]
            # Its pages were taken when it was admitted.
            while not sequence.is_prefilling and not self._pool.grow(
                sequence.page_table, sequence.num_tokens
            ):
                self._preempt_youngest()
                if sequence.lane is None:
                    break
            position += 1
        chunks = tuple(_advance(s, 1) for s in self._running if not s.is_prefilling)
        return Decode(chunks) if chunks else None

    def _preempt_youngest(self) -> None:
        sequence = self._running.pop()
        self._release(sequence)
        # Whatever waits is younger than whatever runs, so the front is its place.
        self._waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        assert sequence.lane is not None
        self._pool.release(sequence.page_table)
        self._free_lanes.append(sequence.lane)
        sequence.lane = None
        sequence.num_computed = 0
        sequence.prefill_end = 0


def _advance(sequence: Sequence, budget: int) -> Chunk:
    """Count up to ``budget`` tokens of a sequence as computed and return them."""
    start = sequence.num_computed
    end = min(start + budget, sequence.num_tokens)
    sequence.num_computed = end
    return Chunk(sequence, start, end, is_sampled=end == sequence.num_tokens)
