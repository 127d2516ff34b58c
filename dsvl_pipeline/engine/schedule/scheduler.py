"""Which sequences run in the coming step, and on which pages. Torch-free.

First come, first served, in waves of twice as many as can run at once. Within a wave those that
may become the longest go first: at the end of the work a few short ones are then left, rather than
a long one that decodes alone. Neighbours on the same pictures stay together, to share them.

A sequence is admitted when the pages that all running ones will probably still need leave room for
it. Its prompt is prefilled before the next decode, because a decode step costs about the same for
one sequence as for many: a full batch is worth the wait. Not for ever, though: short answers that
arrive without end would keep the long ones from ever decoding. Nor for one sequence alone while
many wait: a prefill of a few thousand tokens costs less for each of them. When the pages run out,
the sequence that was admitted last gives all of its own back and waits again; its tokens are
recomputed by a prefill. The oldest one is thus never disturbed, so every sequence finishes.

With drafts, half of the sequences run in a step: while the device verifies the drafts of one half,
the host looks at what became of the other's.

Steps are planned before the tokens of the step before are known. A sequence that ends with such a
token is then part of one step too many, whose token for it is ignored.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

from dsvl_pipeline.engine.schedule.lengths import ExpectedLength
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import Tails
from dsvl_pipeline.engine.schedule.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``end`` (exclusive) of a sequence, to be computed in one step.

    Attributes:
        is_sampled: Whether a new token follows from it: not so for all but a prompt's last chunk.
        draft_ids: The last k of the tokens, which are guesses.
    """

    sequence: Sequence
    start: int
    end: int
    is_sampled: bool
    draft_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute known tokens, at most ``max_step_tokens`` of them over all chunks.

    Attributes:
        copies: Pages (from, to) to be copied first.
    """

    chunks: tuple[Chunk, ...]
    copies: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Decode:
    """Compute the newest token of each sequence, and its drafted tokens if it has any."""

    chunks: tuple[Chunk, ...]

    @property
    def has_drafts(self) -> bool:
        return any(len(chunk.draft_ids) for chunk in self.chunks)


Step = Prefill | Decode

# Prefills in a row while something could decode.
_MOST_PREFILLS = 16
# Decodes in a row while fewer prompts than fill a prefill could be admitted.
_MOST_DECODES = 16
# Of the tokens of a full prefill: enough for the matrix products to run at their full rate.
_WORTHWHILE_SHARE = 0.5
# Before whatever is expected to become long.
_FIRST = -(1 << 62)
# Drafted tokens verified in one step. Attention reads the same keys for all of them.
MAX_DRAFT_TOKENS = 7


class Scheduler:
    """Admit, grow, preempt and release sequences; plan one step at a time."""

    def __init__(
        self,
        pool: PagePool,
        *,
        max_num_sequences: int,
        max_step_tokens: int,
        rows_per_tile: int = 1,
        lengths: ExpectedLength | None = None,
    ) -> None:
        """Start without sequences.

        Args:
            pool: Pages for all of them.
            max_num_sequences: Most that run at once.
            max_step_tokens: Most tokens of a prefill.
            rows_per_tile: Sequences that a decode step's matrix products take at no more cost
                than one; one more of them costs as much as that many.
            lengths: Of completions so far.
        """
        self._pool = pool
        self._tails = Tails(pool)
        self._lengths = lengths or ExpectedLength()
        self._max_step_tokens = max_step_tokens
        self._rows_per_tile = rows_per_tile
        self._waiting: list[Sequence] = []  # in the order of their turns
        self._newest: Sequence | None = None  # that was queued last
        self._wave_size = 2 * max_num_sequences
        self._running: list[Sequence] = []
        self._free_lanes = list(range(max_num_sequences - 1, -1, -1))
        self._copies: list[tuple[int, int]] = []
        self._number = 0  # of the step that is being planned
        self._num_prefills = 0  # since the last decode
        self._num_decodes = 0  # since the last prefill
        self.num_preemptions = 0
        self.num_reused_tokens = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_pages_used(self) -> int:
        """By running sequences; what is kept to be shared is there for the asking."""
        return self._pool.num_used - len(self._tails)

    def upcoming(self, count: int) -> list[Sequence]:
        """Return the first of those that wait."""
        return self._waiting[:count]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            CapacityError: It would not fit even if it were alone.
        """
        self._pool.check_fits(sequence.max_tokens)
        sequence.turn = self._turn_of(sequence)
        self._newest = sequence
        insort(self._waiting, sequence, key=_by_turn)

    def next_step(self) -> Step | None:
        """Plan the coming step, or return None when there is nothing to do.

        The plan counts as done: ``num_computed``, ``num_planned`` and the page tables are those
        after the step.
        """
        self._number += 1
        if self._num_prefills < _MOST_PREFILLS and self._is_worth_a_prefill():
            prefill = self._next_prefill()
            if prefill is not None:
                self._num_prefills += 1
                self._num_decodes = 0
                return prefill
        self._num_prefills = 0
        self._num_decodes += 1
        # Where all that runs is still prefilling, there is nothing to decode.
        return self._next_decode() or self._next_prefill()

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
            self._running.remove(sequence)
            self._release(sequence)

    def step_down(self, step: Step) -> bool:
        """Take a step back that the device had no memory for, and plan smaller ones from now on.

        The steps before it must have been read. All of its sequences wait again.

        Returns:
            Whether smaller steps are possible.
        """
        # What the step was to write is not there, so nobody may share it.
        self._tails.clear()
        self._pool.forget()
        for chunk in reversed(step.chunks):
            if not chunk.sequence.is_finished:
                chunk.sequence.num_planned = chunk.sequence.num_tokens
                self._preempt(chunk.sequence)
        if isinstance(step, Prefill):
            self._max_step_tokens = sum(chunk.end - chunk.start for chunk in step.chunks) // 2
            return self._max_step_tokens >= self._pool.page_size
        del self._free_lanes[len(step.chunks) // 2 :]
        return bool(self._free_lanes)

    def _turn_of(self, sequence: Sequence) -> tuple[int, int, int]:
        """Order by wave, then by how long a completion may become, longest first."""
        wave, newest = sequence.number // self._wave_size, self._newest
        is_neighbour = newest is not None and sequence.images and sequence.images == newest.images
        if newest is not None and is_neighbour and newest.turn[0] == wave:
            return (*newest.turn[:2], sequence.number)  # its pages and pictures are there by then
        return wave, -sequence.longest_expected, sequence.number

    def _is_worth_a_prefill(self) -> bool:
        """Whether to prefill now rather than to wait for more free lanes and pages."""
        if any(sequence.is_prefilling for sequence in self._running):
            return True
        if not self._waiting or not self._free_lanes:
            return False
        spare_pages, most = self._spare_pages(), self._most_running()
        num_tokens = 0
        for number, sequence in enumerate(self._waiting):
            spare_pages -= self._pool.pages_for(self._expected_tokens(sequence))
            has_lane = number < min(len(self._free_lanes), most - len(self._running))
            if not has_lane or spare_pages < 0:
                break
            num_tokens += sequence.num_tokens
            if num_tokens >= _WORTHWHILE_SHARE * self._max_step_tokens:
                return True
        else:
            return True  # all that wait can be admitted
        return self._num_decodes >= _MOST_DECODES or not self._running

    def _next_prefill(self) -> Prefill | None:
        budget = self._max_step_tokens
        chunks = []
        for sequence in self._running:
            if budget and sequence.is_prefilling:
                chunks.append(self._advance_prefill(sequence, budget))
                budget -= chunks[-1].end - chunks[-1].start
        can_admit = bool(budget and self._waiting and self._free_lanes)
        spare_pages, most = (self._spare_pages(), self._most_running()) if can_admit else (0, 0)
        while budget and self._waiting and self._free_lanes and len(self._running) < most:
            sequence, num_free = self._waiting[0], self._pool.num_free
            if not self._admit(sequence, spare_pages):
                break
            del self._waiting[0]
            self._running.append(sequence)
            spare_pages -= num_free - self._pool.num_free + self._promised_pages(sequence)
            chunks.append(self._advance_prefill(sequence, budget))
            budget -= chunks[-1].end - chunks[-1].start
        copies, self._copies = tuple(self._copies), []
        return Prefill(tuple(chunks), copies) if chunks else None

    def _expected_tokens(self, sequence: Sequence) -> int:
        """How long a sequence will probably be at its end; at least a page more than it is."""
        if sequence.has_known_length:
            return sequence.max_tokens
        probable = sequence.num_prompt_tokens + self._lengths.tokens
        least = sequence.num_planned + self._pool.page_size
        return int(min(max(probable, least), sequence.max_tokens))

    def _most_running(self) -> int:
        """As many as there probably are pages for, in whole tiles of matrix products.

        A few sequences more than a tile holds would make each step as long as a whole tile more.
        """
        known = self._running or self.upcoming(self._rows_per_tile)
        if not known or any(sequence.has_draft for sequence in known):
            return len(self._running) + len(self._free_lanes)  # several rows for each sequence
        # What runs holds; shared pages count once.
        pages = self.num_pages_used if self._running else 0
        pages += sum(map(self._promised_pages, known))
        # Those that wait may have all the pages that they need, and nothing that runs has any.
        capacity = self._pool.num_pages * len(known) // max(pages, 1)
        tiles, rest = divmod(capacity, self._rows_per_tile)
        if tiles and rest < self._rows_per_tile / 2:
            return tiles * self._rows_per_tile
        return capacity + 1

    def _spare_pages(self) -> int:
        """Pages that are free and that no running sequence will probably need."""
        return self._pool.num_free - sum(map(self._promised_pages, self._running))

    def _promised_pages(self, sequence: Sequence) -> int:
        expected = self._pool.pages_for(self._expected_tokens(sequence))
        return max(expected - len(sequence.page_table), 0)

    def _admit(self, sequence: Sequence, spare_pages: int) -> bool:
        if not sequence.is_settled:
            return False
        num_free = self._pool.num_free
        shared = self._pool.share(sequence.page_keys)
        spare_pages -= num_free - self._pool.num_free  # those that nobody had in use
        sequence.page_table += shared
        wanted = self._pool.pages_for(self._expected_tokens(sequence)) - len(shared)
        # A page more than its tokens need, or it would be the first one preempted.
        num_tokens = min(sequence.num_tokens + self._pool.page_size, sequence.max_tokens)
        is_alone = not self._running
        has_room = is_alone or wanted <= spare_pages
        if not (has_room and self._grow(sequence, num_tokens, may_clear=is_alone)):
            self._pool.release(sequence.page_table)
            return False
        num_known = len(shared) * self._pool.page_size
        tail = self._find_tail(sequence, num_known)
        if tail is not None:
            self._copies.append((tail, sequence.page_table[len(shared)]))
            num_known = sequence.shared_text
        self.num_reused_tokens += num_known
        sequence.lane = self._free_lanes.pop()
        sequence.prefill_end = sequence.num_tokens
        sequence.num_computed = sequence.num_reused = num_known
        return True

    def _grow(self, sequence: Sequence, num_tokens: int, *, may_clear: bool) -> bool:
        return self._pool.grow(sequence.page_table, num_tokens) or (
            may_clear and self._tails.clear() and self._pool.grow(sequence.page_table, num_tokens)
        )

    def _find_tail(self, sequence: Sequence, num_shared: int) -> int | None:
        rest = sequence.shared_text - num_shared
        if not 0 < rest < self._pool.page_size:
            return None
        return self._tails.find(_shared_text(sequence), self._number)

    def _advance_prefill(self, sequence: Sequence, budget: int) -> Chunk:
        """Count up to ``budget`` tokens as computed; let others share the pages they fill."""
        start = sequence.num_computed
        end = min(start + budget, sequence.prefill_end)
        sequence.num_computed = end
        is_sampled = end == sequence.prefill_end
        if is_sampled:
            sequence.num_planned = sequence.num_tokens + 1
        size = self._pool.page_size
        for page in range(start // size, min(end // size, len(sequence.page_keys))):
            self._pool.register(sequence.page_table[page], sequence.page_keys[page])
        if start < sequence.shared_text <= end and sequence.shared_text % size:
            page = sequence.page_table[sequence.shared_text // size]
            self._tails.add(_shared_text(sequence), page, self._number)
        return Chunk(sequence, start, end, is_sampled)

    def _next_decode(self) -> Decode | None:
        turn = self._turn()
        chunks: list[Chunk] = []
        # By index: preemption takes sequences off the end while we walk.
        position = 0
        while position < len(self._running):
            sequence = self._running[position]
            if sequence.number in turn:
                draft_ids = self._draft(sequence)
                while not self._pool.grow(sequence.page_table, sequence.num_planned):
                    if not self._tails.clear():
                        self._preempt(self._running[-1])
                    if sequence.lane is None:
                        break
                else:
                    sequence.last_step = self._number
                    chunks.append(_advance(sequence, draft_ids))
            position += 1
        return Decode(tuple(chunks)) if chunks else None

    def _turn(self) -> set[int]:
        """Return the numbers of the sequences that decode now.

        With drafts it is the half that has waited longest, of those whose tokens are all known.
        """
        # Pages of one that prefills were taken when it was admitted.
        ready = [s for s in self._running if not s.is_prefilling and s.num_planned < s.max_tokens]
        if any(sequence.has_draft for sequence in self._running):
            settled = [sequence for sequence in ready if sequence.is_settled]
            settled.sort(key=lambda sequence: sequence.last_step)
            ready = settled[: -(-len(self._running) // 2)]
        return {sequence.number for sequence in ready}

    def _draft(self, sequence: Sequence) -> tuple[int, ...]:
        """Return guesses at the next tokens for which there are pages."""
        if sequence.draft is None or not sequence.draft.is_active:
            return ()
        limit = min(MAX_DRAFT_TOKENS, sequence.max_tokens - sequence.num_tokens - 1)
        if limit < 1:
            return ()
        draft_ids = tuple(sequence.draft.propose(sequence.completion_ids, limit).tolist())
        if self._pool.grow(sequence.page_table, sequence.num_tokens + len(draft_ids)):
            return draft_ids
        return ()

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        # In front of its wave: each time it is overtaken it would be computed once more.
        sequence.turn = (sequence.turn[0], _FIRST, sequence.number)
        insort(self._waiting, sequence, key=_by_turn)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        assert sequence.lane is not None
        self._pool.release(sequence.page_table)
        self._free_lanes.append(sequence.lane)
        sequence.lane = None
        sequence.num_computed = 0
        sequence.prefill_end = 0


def _advance(sequence: Sequence, draft_ids: tuple[int, ...]) -> Chunk:
    """Count the newest token as computed, and one more as on its way."""
    start = sequence.num_planned - 1
    sequence.num_computed = start + 1
    sequence.num_planned += 1
    return Chunk(sequence, start, start + 1 + len(draft_ids), True, draft_ids)


def _by_turn(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.turn


def _shared_text(sequence: Sequence) -> bytes:
    return sequence.token_ids[: sequence.shared_text].tobytes()
