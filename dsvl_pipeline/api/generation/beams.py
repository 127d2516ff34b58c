"""Beam search over `Steps`, greedy or sampled.

Letters: ``B`` prompts, ``K`` beams of each, ``C`` candidates to follow them, ``N`` new tokens at
most, ``V`` vocabulary.

Source of the behaviour: ``_beam_search``, transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsvl_pipeline.api.generation import scores as score_functions
from dsvl_pipeline.api.generation.plan import Plan
from dsvl_pipeline.api.generation.recording import Recording
from dsvl_pipeline.api.generation.scores import Change
from dsvl_pipeline.api.generation.steps import Steps
from dsvl_pipeline.api.generation.stopping import Stop

# Instead of minus infinity, so that sums of two stay ordered as the reference orders them.
_NEVER = -1e9


@dataclass(slots=True)
class _Beams:
    """Sequences with their scores.

    Attributes:
        tokens: ``int64[B, K, N]``, new ones alone; pad behind their end.
        parents: ``int64[B, K, N]``, the row that each token followed; -1 where there is none.
        scores: ``float32[B, K]``, sums of log-probabilities, for ended ones by their length.
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor

    def at(self, index: Tensor) -> _Beams:
        """Choose ``int64[B, K']`` of them."""
        deep = index[..., None].expand(-1, -1, self.tokens.shape[2])
        return _Beams(
            self.tokens.gather(1, deep), self.parents.gather(1, deep), self.scores.gather(1, index)
        )

    def and_also(self, others: _Beams) -> _Beams:
        """Put others behind these."""
        return _Beams(
            torch.cat([self.tokens, others.tokens], 1),
            torch.cat([self.parents, others.parents], 1),
            torch.cat([self.scores, others.scores], 1),
        )


class BeamSearch:
    """The state of one search, and its step."""

    def __init__(self, prompts: Tensor, plan: Plan, stop: Stop) -> None:
        """Begin with ``int64[B, T]``."""
        B, K = len(prompts), plan.config.num_beams
        self._prompts, self._plan, self._stop = prompts, plan, stop
        shape = (B, K, plan.max_new_tokens)
        scores = torch.full(shape[:2], _NEVER, device=prompts.device)
        self._running = _Beams(
            prompts.new_full(shape, plan.pad_token_id), prompts.new_full(shape, -1), scores.clone()
        )
        self._running.scores[:, 0] = 0.0  # all beams are alike at first: only one of them counts
        self._ended = _Beams(self._running.tokens, self._running.parents, scores)
        self._has_ended = torch.zeros(shape[:2], dtype=torch.bool, device=prompts.device)
        self._can_improve = torch.ones(B, 1, dtype=torch.bool, device=prompts.device)
        self._length = 0
        self.is_done = False

    def rows(self) -> Tensor:
        """Return the running sequences with their prompts, ``int64[B * K, T + n]``."""
        return self._with_prompts(self._running.tokens[..., : self._length]).flatten(0, 1)

    def _with_prompts(self, tokens: Tensor) -> Tensor:
        prompts = self._prompts[:, None].expand(-1, tokens.shape[1], -1)
        return torch.cat([prompts, tokens], 2)

    def advance(self, log_probs: Tensor, recorded: Any) -> Tensor:
        """Take a step.

        Args:
            log_probs: ``[B * K, V]``, of the next token.
            recorded: Scores so far, for a caller's criteria.

        Returns:
            ``int64[B * K]``: the row that each running one has come of.
        """
        candidates = self._candidates(log_probs)
        new = candidates.tokens[..., : self._length + 1]
        ends = self._stop(self._with_prompts(new).flatten(0, 1), recorded).view(new.shape[:2])
        K = self._plan.config.num_beams
        self._end_some(candidates, ends)
        scores = candidates.scores + _NEVER * ends
        self._running = _Beams(candidates.tokens, candidates.parents, scores).at(scores.topk(K)[1])
        parents = self._running.parents[..., self._length].flatten()
        self._length += 1
        self._judge(ends)
        return parents

    def _candidates(self, log_probs: Tensor) -> _Beams:
        """Extend every beam by every token, and keep the best: enough if many of them end."""
        plan, running = self._plan, self._running
        B, K, _ = running.tokens.shape
        V = log_probs.shape[-1]
        total = (log_probs.view(B, K, V) + running.scores[..., None]).view(B, K * V)
        count = min(max(2, 1 + len(plan.eos_token_ids)) * K, K * V)
        if plan.config.do_sample:
            best = torch.multinomial(total.softmax(-1), count)
        else:
            best = total.topk(count)[1]
        beams = best // V
        found = running.at(beams)
        found.scores = total.gather(1, best)
        found.tokens[..., self._length] = best % V
        first_rows = torch.arange(B, device=best.device)[:, None] * K
        found.parents[..., self._length] = beams + first_rows
        return found

    def _end_some(self, candidates: _Beams, ends: Tensor) -> None:
        """Keep those that ended if they are among the best, and better than what has ended."""
        config = self._plan.config
        K = config.num_beams
        is_among_best = torch.arange(ends.shape[1], device=ends.device) < K
        has_just_ended = ends & is_among_best
        is_full = self._has_ended.all(1, keepdim=True) & (config.early_stopping is True)
        scores = candidates.scores / (self._length + 1) ** config.length_penalty
        for is_barred in (is_full, ~self._can_improve, ~has_just_ended):
            scores = scores + _NEVER * is_barred
        all_ended = self._ended.and_also(_Beams(candidates.tokens, candidates.parents, scores))
        best = all_ended.scores.topk(K)[1]
        self._ended = all_ended.at(best)
        self._has_ended = torch.cat([self._has_ended, has_just_ended], 1).gather(1, best)

    def _judge(self, ends: Tensor) -> None:
        """Say whether the search is done: nothing can improve, or go on, or all wanted have ended.

        A length penalty above 0 favours long answers, so that ``never`` (stop early) judges the
        best running one as if it had the greatest length; else its present one is taken.
        """
        plan, config = self._plan, self._plan.config
        length = self._length
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = plan.max_new_tokens
        best = self._running.scores[:, :1] / length**config.length_penalty
        worst = self._ended.scores.amin(1, keepdim=True).where(self._has_ended, _NEVER)
        self._can_improve &= (best > worst).any(1, keepdim=True)
        has_all = config.early_stopping is True and bool(self._has_ended.all())
        self.is_done = has_all or not bool(self._can_improve.any()) or bool(ends.all())

    def answers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best of each prompt.

        Returns:
            ``int64[B * answers, T + new]``, their scores ``[B * answers]``, and for each new token
            the row that it followed, ``[B * answers, new]``, -1 behind their end.
        """
        n = self._plan.config.num_return_sequences
        parents = self._ended.parents[:, :n].flatten(0, 1)
        longest = int((parents >= 0).sum(1).max())
        tokens = self._with_prompts(self._ended.tokens[:, :n, :longest])
        return tokens.flatten(0, 1), self._ended.scores[:, :n].flatten(), parents[:, :longest]


def search(
    steps: Steps, prompts: Tensor, plan: Plan, changes: Sequence[Change], stop: Stop
) -> tuple[Tensor, Recording, Tensor, Tensor]:
    """Search for the best answers to ``int64[B, T]``; see `BeamSearch.answers`."""
    recording = Recording(plan)
    state = BeamSearch(prompts, plan, stop)
    while not state.is_done:
        rows = state.rows()
        output = steps(rows)
        logits = output.logits[:, -1].float()
        log_probs = score_functions.apply(changes, rows, logits.log_softmax(-1))
        recording.add(output, logits, log_probs)
        steps.keep(state.advance(log_probs, recording.scores))
    ids, scores, parents = state.answers()
    return ids, recording, scores, parents
