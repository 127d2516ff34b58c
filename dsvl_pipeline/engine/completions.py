"""Sequences to completions: what is said, and how it ended. Torch-free."""

from __future__ import annotations

import time

import numpy as np

from dsvl_pipeline.engine.schedule.cut_character import BytesOf, decode_whole
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.stop_text import DecodeIds, cut_before
from dsvl_pipeline.records import Completion, FinishReason, Request, RowFailure


def make_completion(
    sequence: Sequence, reason: FinishReason, decode: DecodeIds, bytes_of: BytesOf | None
) -> Completion:
    """Return what became of a sequence.

    Args:
        sequence: All of its tokens are known.
        reason: Why it ends. Of a loop, the first round is kept.
        decode: See `stop_text.DecodeIds`.
        bytes_of: As `decode_whole` takes it.
    """
    sampling, guard = sequence.request.sampling, sequence.guard
    num_kept = len(sequence.completion_ids)
    if reason == "repetition" and guard is not None:
        num_kept = guard.num_kept
    ids: list[int] = sequence.completion_ids[:num_kept].tolist()
    logprobs = np.array(sequence.logprobs[:num_kept], dtype=np.float32)
    has_stop_id = bool(ids) and ids[-1] in sequence.stop_ids
    text_ids = ids[:-1] if has_stop_id else ids
    text = decode(text_ids) if reason == "stop" else decode_whole(text_ids, decode, bytes_of)
    return Completion(
        request_id=sequence.request.request_id,
        completion_ids=np.array(ids, dtype=np.int32),
        text=cut_before(text, sampling.stop),
        finish_reason=reason,
        num_prompt_tokens=sequence.num_prompt_tokens,
        logprobs=logprobs if sampling.logprobs else None,
        timings=_timings(sequence),
        error=_grammar_fault(sequence),
    )


def make_refusal(request: Request, fault: RowFailure) -> Completion:
    """Return the answer to a request that was never run, whatever it may hold."""
    return Completion(
        request_id=request.request_id,
        completion_ids=np.empty(0, dtype=np.int32),
        text="",
        finish_reason="cancelled",
        num_prompt_tokens=getattr(request.prompt_ids, "size", 0),
        timings={},
        error=fault,
    )


def _timings(sequence: Sequence) -> dict[str, float]:
    timings = {"finished_s": time.monotonic() - sequence.submitted_s}
    if sequence.first_token_s is not None:
        timings["first_token_s"] = sequence.first_token_s - sequence.submitted_s
    return timings


def _grammar_fault(sequence: Sequence) -> RowFailure | None:
    matcher = sequence.matcher
    if matcher is None or matcher.error is None:
        return None
    return RowFailure(
        code="schema_failed",
        message=f"the grammar could not be followed to its end: {matcher.error}",
    )
