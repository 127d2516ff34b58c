"""What one forward pass computes: chunks of known tokens, or the newest token of each sequence.

Steps are planned before the tokens of the step before are known, so each counts as done at once:
`prefill_chunk` and `decode_chunk` leave a sequence as it is after the step.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsvl_pipeline.engine.schedule.sequence import Sequence

MAX_DRAFT_TOKENS = 7
"""Drafted tokens verified in one step. Attention reads the same keys for all of them."""


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


def prefill_chunk(sequence: Sequence, budget: int) -> Chunk:
    """Count up to ``budget`` of the tokens to be prefilled as computed."""
    start = sequence.num_computed
    end = min(start + budget, sequence.prefill_end)
    sequence.num_computed = end
    is_sampled = end == sequence.prefill_end
    if is_sampled:
        sequence.num_planned = sequence.num_tokens + 1
    return Chunk(sequence, start, end, is_sampled)


def decode_chunk(sequence: Sequence, draft_ids: tuple[int, ...]) -> Chunk:
    """Count the newest token as computed, and one more as on its way."""
    start = sequence.num_planned - 1
    sequence.num_computed = start + 1
    sequence.num_planned += 1
    return Chunk(sequence, start, start + 1 + len(draft_ids), True, draft_ids)
