"""The order of waiting sequences.

First come, first served, in waves of twice as many as can run at once. Within a wave those that
may become the longest go first: at the end of the work a few short ones are then left, rather than
a long one that decodes alone. Neighbours on the same pictures stay together, to share them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from dsvl_pipeline.engine.schedule.sequence import Priority, Sequence

# Before whatever is expected to become long.
_FIRST = -(1 << 62)


class WaitingQueue:
    """Sequences that wait for a lane and pages; the first is admitted next."""

    def __init__(self, *, max_num_sequences: int) -> None:
        """Start empty.

        Args:
            max_num_sequences: Most that run at once.
        """
        self._sequences: list[Sequence] = []
        self._newest: Sequence | None = None  # that was added last
        self._wave_size = 2 * max_num_sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def first(self, count: int) -> list[Sequence]:
        """Return the first ``count``, or all where there are fewer."""
        return self._sequences[:count]

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        sequence.priority = self._priority_of(sequence)
        self._newest = sequence
        insort(self._sequences, sequence, key=_priority)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence in front of its wave.

        Each time that it is overtaken its tokens would be computed once more.
        """
        sequence.priority = (sequence.priority[0], _FIRST, sequence.number)
        insort(self._sequences, sequence, key=_priority)

    def pop(self) -> None:
        """Take out the first."""
        del self._sequences[0]

    def remove(self, sequence: Sequence) -> None:
        """Take out any."""
        self._sequences.remove(sequence)

    def _priority_of(self, sequence: Sequence) -> Priority:
        """Order by wave, then by how long a completion may become, longest first."""
        wave, newest = sequence.number // self._wave_size, self._newest
        is_neighbour = newest is not None and sequence.images and sequence.images == newest.images
        if newest is not None and is_neighbour and newest.priority[0] == wave:
            # its pages and pictures are there by then
            return (*newest.priority[:2], sequence.number)
        return wave, -sequence.longest_expected, sequence.number


def _priority(sequence: Sequence) -> Priority:
    return sequence.priority
