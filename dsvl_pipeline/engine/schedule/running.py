"""The sequences that run: each holds a lane of the device and KV pages."""

from __future__ import annotations

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import PrefixCache
from dsvl_pipeline.engine.schedule.queue import WaitingQueue
from dsvl_pipeline.engine.schedule.sequence import Sequence


class RunningSequences:
    """Give lanes to sequences and take them back, with all of their pages.

    Attributes:
        sequences: In the order of their admission; only this class changes it.
        free_lanes: The last one is taken next.
        num_preemptions: How often one had to wait again.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        *,
        pool: PagePool,
        prefixes: PrefixCache,
        max_num_sequences: int,
    ) -> None:
        """Start without sequences.

        Args:
            waiting: Where preempted ones go.
            pool: Pages for all of them.
            prefixes: What they may share.
            max_num_sequences: Most that run at once: there are so many lanes.
        """
        self._waiting = waiting
        self._pool = pool
        self._prefixes = prefixes
        self.sequences: list[Sequence] = []
        self.free_lanes = list(range(max_num_sequences - 1, -1, -1))
        self.num_preemptions = 0

    @property
    def num_pages_used(self) -> int:
        """Pages of running sequences; what is kept to be shared is there for the asking."""
        return self._pool.num_used - len(self._prefixes)

    def start(self, sequence: Sequence, num_reused: int) -> None:
        """Give a sequence a lane.

        Args:
            sequence: Has pages for its tokens and some more.
            num_reused: Tokens at its beginning that others have computed.
        """
        sequence.lane = self.free_lanes.pop()
        sequence.prefill_end = sequence.num_tokens
        sequence.num_computed = sequence.num_reused = num_reused
        self.sequences.append(sequence)

    def stop(self, sequence: Sequence) -> None:
        """Take a sequence's lane and pages."""
        assert sequence.lane is not None
        self.sequences.remove(sequence)
        self._pool.release(sequence.page_table)
        self.free_lanes.append(sequence.lane)
        sequence.lane = None
        sequence.num_computed = 0
        sequence.prefill_end = 0

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's lane and pages, and have it wait for others."""
        self.stop(sequence)
        self._waiting.put_back(sequence)
        self.num_preemptions += 1

    def free_some_pages(self) -> None:
        """Let go of pages that are kept to be copied; without any, preempt the youngest."""
        if not self._prefixes.clear():
            self.preempt(self.sequences[-1])
