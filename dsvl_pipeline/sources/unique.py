"""Row ids that stand for one row each, over inputs of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.keys import row_id_for
from dsvl_pipeline.records import Row, RowFailure


class SeenIds:
    """Remembers which ids came before, in 8 bytes each.

    Keeps sorted runs of 64-bit hashes, each at least twice as long as the next: 8 MB per million
    ids (16 MB while runs are merged), where a Python set takes 90 MB. Among 10^8 ids one is taken
    for another with a chance of 1 in 4,000.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def repeats(self, ids: Sequence[str]) -> list[int]:
        """Remember ids, and give the positions of those that came before, also in ``ids``."""
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        is_old = np.zeros(len(values), dtype=bool)
        for run in self._runs:
            at = np.searchsorted(run, values)
            is_old |= run[np.minimum(at, len(run) - 1)] == values
        is_repeat = is_old[inverse]
        is_first = np.zeros(len(ids), dtype=bool)
        is_first[first] = True
        self._remember(values[~is_old])
        return [int(position) for position in np.flatnonzero(is_repeat | ~is_first)]

    def _remember(self, run: NDArray[np.int64]) -> None:
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            # A stable sort of two sorted runs is one linear merge.
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]


def number_equal_rows(batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
    """Number the equal rows of one manifest file that has no id column, by their occurrence."""
    seen, occurrences = SeenIds(), dict[str, int]()
    for batch in batches:
        for position in seen.repeats([row.row_id for row in batch]):
            row = batch[position]
            occurrence = occurrences[row.row_id] = occurrences.get(row.row_id, 0) + 1
            batch[position] = replace(row, row_id=row_id_for(row.sources, row.prompt, occurrence))
        yield batch


def refuse_repeats(batches: Iterable[list[Row]]) -> Iterator[Row]:
    """Yield rows with ids of their own: a repeated one becomes ``<id>#2``, ... and an error row."""
    seen, counts = SeenIds(), dict[str, int]()

    def next_name(row_id: str) -> str:
        counts[row_id] = counts.get(row_id, 1) + 1
        return f"{row_id}#{counts[row_id]}"

    for batch in batches:
        repeats = seen.repeats([row.row_id for row in batch])
        names = [next_name(batch[position].row_id) for position in repeats]
        for at in seen.repeats(names):  # rare: another row's id looks like a numbered one
            while seen.repeats([names[at]]):
                names[at] = next_name(batch[repeats[at]].row_id)
        for position, name in zip(repeats, names, strict=True):
            row_id = batch[position].row_id
            failure = RowFailure(
                code="duplicate_id",
                message=f"row id {row_id!r} came before in this input; ids must be unique, remove "
                "or rename one",
            )
            batch[position] = replace(batch[position], row_id=name, failure=failure)
        yield from batch
