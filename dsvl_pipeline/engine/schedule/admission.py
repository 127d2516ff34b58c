"""Which waiting sequences may start: those whose pages will probably suffice to their ends.

A sequence is admitted when the pages that all running ones will probably still need leave room for
it. What its prompt shares with earlier ones it takes over.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsvl_pipeline.engine.schedule.lengths import ExpectedLength
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import PageCopy, PrefixCache
from dsvl_pipeline.engine.schedule.queue import WaitingQueue
from dsvl_pipeline.engine.schedule.running import RunningSequences
from dsvl_pipeline.engine.schedule.sequence import Sequence

# Of the tokens of a full prefill: enough for the matrix products to run at their full rate.
_WORTHWHILE_SHARE = 0.5


class Admission:
    """Move sequences from the queue to those that run, as long as there are lanes and pages.

    Attributes:
        lengths: Of completions so far.
        num_reused_tokens: That others had computed, over all that were admitted.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        running: RunningSequences,
        *,
        pool: PagePool,
        prefixes: PrefixCache,
        lengths: ExpectedLength,
        rows_per_tile: int,
    ) -> None:
        """Admit nothing yet; arguments as `Scheduler` has them."""
        self._waiting = waiting
        self._running = running
        self._pool = pool
        self._prefixes = prefixes
        self.lengths = lengths
        self._rows_per_tile = rows_per_tile
        self.num_reused_tokens = 0

    def is_worthwhile(self, max_step_tokens: int) -> bool:
        """Return whether half a prefill, or all that waits, can be admitted now.

        A prefill of a few thousand tokens costs less for each sequence than one alone.
        """
        running, lanes = self._running.sequences, self._running.free_lanes
        spare_pages, most = self._limits()
        num_tokens = 0
        for number, sequence in enumerate(self._waiting):
            spare_pages -= self._pool.pages_for(self._expected_tokens(sequence))
            has_lane = number < min(len(lanes), most - len(running))
            if not has_lane or spare_pages < 0:
                return False
            num_tokens += sequence.num_tokens
            if num_tokens >= _WORTHWHILE_SHARE * max_step_tokens:
                return True
        return True

    def admit(self, step_number: int) -> Iterator[tuple[Sequence, PageCopy | None]]:
        """Admit sequences one by one, for as long as the caller asks for more.

        Args:
            step_number: Of the step in which they start.

        Yields:
            A sequence that now runs, and the page that must be copied for it before.
        """
        waiting, running = self._waiting, self._running
        if not (waiting and running.free_lanes):
            return
        spare_pages, most = self._limits()
        while waiting and running.free_lanes and len(running.sequences) < most:
            (sequence,), num_free = waiting.first(1), self._pool.num_free
            num_shared = self._take_pages(sequence, spare_pages) if sequence.is_settled else None
            if num_shared is None:
                return
            copy = self._prefixes.find_copy(sequence, num_shared, step_number)
            num_reused = sequence.shared_text if copy else num_shared * self._pool.page_size
            self.num_reused_tokens += num_reused
            waiting.pop()
            running.start(sequence, num_reused)
            spare_pages -= num_free - self._pool.num_free + self._promised_pages(sequence)
            yield sequence, copy

    def _take_pages(self, sequence: Sequence, spare_pages: int) -> int | None:
        """Take pages for a sequence's tokens and some more; return how many of them it shares.

        Where there are too few, it gets none and None is returned.
        """
        num_free = self._pool.num_free
        shared = self._pool.share(sequence.page_keys)
        spare_pages -= num_free - self._pool.num_free  # those that nobody had in use
        sequence.page_table += shared
        wanted = self._pool.pages_for(self._expected_tokens(sequence)) - len(shared)
        # A page more than its tokens need, or it would be the first one preempted.
        num_tokens = min(sequence.num_tokens + self._pool.page_size, sequence.max_tokens)
        is_alone = not self._running.sequences
        has_room = is_alone or wanted <= spare_pages
        if has_room and self._grow(sequence, num_tokens, may_clear=is_alone):
            return len(shared)
        self._pool.release(sequence.page_table)
        return None

    def _grow(self, sequence: Sequence, num_tokens: int, *, may_clear: bool) -> bool:
        return self._pool.grow(sequence.page_table, num_tokens) or (
            may_clear
            and self._prefixes.clear()
            and self._pool.grow(sequence.page_table, num_tokens)
        )

    def _expected_tokens(self, sequence: Sequence) -> int:
        """How long a sequence will probably be at its end; at least a page more than it is."""
        if sequence.has_known_length:
            return sequence.max_tokens
        probable = sequence.num_prompt_tokens + self.lengths.tokens
        least = sequence.num_planned + self._pool.page_size
        return int(min(max(probable, least), sequence.max_tokens))

    def _limits(self) -> tuple[int, int]:
        """Return pages that no running sequence will probably need, and how many should run."""
        running = self._running.sequences
        promised = sum(map(self._promised_pages, running))
        return self._pool.num_free - promised, self._most_running(promised)

    def _most_running(self, promised: int) -> int:
        """As many as there probably are pages for, in whole tiles of matrix products.

        A few sequences more than a tile holds would make each step as long as a whole tile more.
        """
        running = self._running.sequences
        known = running or self._waiting.first(self._rows_per_tile)
        if not known or any(sequence.has_draft for sequence in known):
            return len(running) + len(self._running.free_lanes)  # several rows for each sequence
        if running:  # what runs holds; shared pages count once
            pages = self._running.num_pages_used + promised
        else:
            pages = sum(map(self._promised_pages, known))
        # Those that wait may have all the pages that they need, and nothing that runs has any.
        capacity = self._pool.num_pages * len(known) // max(pages, 1)
        tiles, rest = divmod(capacity, self._rows_per_tile)
        if tiles and rest < self._rows_per_tile / 2:
            return tiles * self._rows_per_tile
        return capacity + 1

    def _promised_pages(self, sequence: Sequence) -> int:
        expected = self._pool.pages_for(self._expected_tokens(sequence))
        return max(expected - len(sequence.page_table), 0)
