"""Which running sequences decode in a step, and which drafted tokens are verified along.

When the pages run out, the sequence that was admitted last gives all of its own back and waits
again; its tokens are recomputed by a prefill. The oldest one is thus never disturbed, so every
sequence finishes.

With drafts, half of the sequences run in a step: while the device verifies the drafts of one half,
the host looks at what became of the other's.
"""

from __future__ import annotations

from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.running import RunningSequences
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import MAX_DRAFT_TOKENS, Chunk, Decode, decode_chunk


class DecodePlanner:
    """Plan decode steps, and find pages for their tokens."""

    def __init__(self, running: RunningSequences, pool: PagePool) -> None:
        self._running = running
        self._pool = pool

    def next_step(self, step_number: int) -> Decode | None:
        """Plan a step, or return None when nothing can decode."""
        chunks: list[Chunk] = []
        for sequence in self._batch():
            # One that was preempted for those before it has no lane any more.
            if sequence.lane is not None:
                draft_ids = self._draft_ids(sequence) if sequence.draft is not None else ()
                has_room = self._pool.grow(sequence.page_table, sequence.num_planned)
                if has_room or self._make_room(sequence):
                    sequence.last_step = step_number
                    chunks.append(decode_chunk(sequence, draft_ids))
        return Decode(tuple(chunks)) if chunks else None

    def _batch(self) -> list[Sequence]:
        """Return the sequences that decode now, in the order of their admission.

        With drafts it is the half that has waited longest, of those whose tokens are all known.
        """
        running = self._running.sequences
        # Pages of one that prefills were taken when it was admitted.
        ready = [s for s in running if not s.is_prefilling and s.num_planned < s.max_tokens]
        if not any(sequence.has_draft for sequence in running):
            return ready
        settled = [sequence for sequence in ready if sequence.is_settled]
        settled.sort(key=lambda sequence: sequence.last_step)
        half = {sequence.number for sequence in settled[: -(-len(running) // 2)]}
        return [sequence for sequence in ready if sequence.number in half]

    def _draft_ids(self, sequence: Sequence) -> tuple[int, ...]:
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

    def _make_room(self, sequence: Sequence) -> bool:
        """Take pages from the youngest for the next token; return False where that is itself."""
        while not self._pool.grow(sequence.page_table, sequence.num_planned):
            self._running.free_some_pages()
            if sequence.lane is None:
                return False
        return True
