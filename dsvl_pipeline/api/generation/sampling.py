"""Greedy search and sampling over `Steps`: one answer a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsvl_pipeline.api.generation import scores as score_functions
from dsvl_pipeline.api.generation.plan import Plan
from dsvl_pipeline.api.generation.recording import Recording
from dsvl_pipeline.api.generation.scores import Change
from dsvl_pipeline.api.generation.steps import Steps
from dsvl_pipeline.api.generation.stopping import Stop


def sample(
    steps: Steps, ids: Tensor, plan: Plan, changes: Sequence[Change], stop: Stop, streamer: Any
) -> tuple[Tensor, Recording]:
    """Answer rows until all have ended.

    Args:
        steps: Over the rows' prompts.
        ids: ``int64[R, T]``, the prompts.
        plan: How.
        changes: Of the scores.
        stop: Whether a row ends.
        streamer: Gets the prompts, then the tokens of each step with ``put``; or None.

    Returns:
        ``int64[R, T + new]``, padded behind the ends; and what was recorded.
    """
    recording = Recording(plan)
    is_running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    if streamer is not None:
        streamer.put(ids.cpu())
    while is_running.any():
        output = steps(ids)
        logits = output.logits[:, -1].float()
        scores = score_functions.apply(changes, ids, logits)
        recording.add(output, logits, scores)
        if plan.config.do_sample:
            tokens = torch.multinomial(scores.softmax(-1), 1)[:, 0]
        else:
            tokens = scores.argmax(-1)
        if plan.eos_token_ids:  # without one nothing is padded: rows go on till the last has ended
            tokens = tokens.where(is_running, plan.pad_token_id)
        ids = torch.cat([ids, tokens[:, None]], 1)
        is_running &= ~stop(ids, recording.scores)
        if streamer is not None:
            streamer.put(tokens.cpu())
    if streamer is not None:
        streamer.end()
    return ids, recording
