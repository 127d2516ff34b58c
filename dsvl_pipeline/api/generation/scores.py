"""What changes the scores of the next token, in the reference's order.

Letters: ``B`` rows, ``T`` tokens so far, ``V`` vocabulary.

Source of the behaviour: ``logits_process.py``, transformers 5.23. Holtzman et al. 2020,
arXiv:1904.09751 (top-p); Meister et al. 2023, arXiv:2202.00666 (typical); Hewitt et al. 2022,
arXiv:2210.15191 (epsilon and eta); Keskar et al. 2019, arXiv:1909.05858 (repetition penalty).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dsvl_pipeline.api.generation.plan import Plan

Change = Callable[[Tensor, Tensor], Tensor]
"""(ids ``[B, T]``, scores ``[B, V]``) -> scores."""


def score_changes(
    plan: Plan,
    mask: Tensor | None,
    prompt_length: int,
    *,
    custom: Iterable[Change] = (),
    allowed_tokens: Callable[[int, Tensor], list[int]] | None = None,
) -> list[Change]:
    """Return what a plan asks for, in the reference's order.

    Args:
        plan: Of the call.
        mask: ``[B, T]`` of the prompts, 0 at padding, which counts as no repetition.
        prompt_length: Ids before the first new one; 0 where prompts are embeddings.
        custom: A caller's own.
        allowed_tokens: (prompt's index, ids) -> ids that may follow.
    """
    found = [*_penalties(plan, mask, prompt_length)]
    if allowed_tokens is not None:
        found.append(_only_allowed(allowed_tokens, plan.config.num_beams))
    found += _forced(plan, prompt_length)
    found += custom
    if plan.config.do_sample:
        found += _filters(plan)
    if plan.config.renormalize_logits:
        found.append(lambda _, scores: scores.log_softmax(-1))
    return found


def apply(changes: Sequence[Change], ids: Tensor, scores: Tensor) -> Tensor:
    """Run them one after the other."""
    for change in changes:
        scores = change(ids, scores)
    return scores


def _penalties(plan: Plan, mask: Tensor | None, prompt_length: int) -> Iterable[Change]:
    config, ends = plan.config, plan.eos_token_ids
    if config.sequence_bias is not None:
        yield _bias({tuple(ids): bias for ids, bias in _pairs(config.sequence_bias)})
    if config.repetition_penalty != 1.0:
        starts = None if mask is None else (mask != 0).int().argmax(1)
        yield _no_repetition(config.repetition_penalty, starts)
    if config.no_repeat_ngram_size > 0:
        yield _no_ngram_twice(config.no_repeat_ngram_size)
    if config.bad_words_ids is not None:
        kept = [
            tuple(ids) for ids in config.bad_words_ids if tuple(ids) not in {(e,) for e in ends}
        ]
        yield _bias(dict.fromkeys(kept, -math.inf))
    least = config.min_length
    if config.min_new_tokens is not None:  # wins, as max_new_tokens over max_length
        least = prompt_length + config.min_new_tokens
    if ends and least > 0:
        yield _without_until(ends, least)


def _forced(plan: Plan, prompt_length: int) -> Iterable[Change]:
    config = plan.config
    if config.forced_bos_token_id is not None:
        yield _force([config.forced_bos_token_id], at=1)
    if config.forced_eos_token_id is not None:
        last = prompt_length + plan.max_new_tokens - 1
        forced = config.forced_eos_token_id
        yield _force([forced] if isinstance(forced, int) else forced, at=last)
    if config.remove_invalid_values:
        yield _finite
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        yield _decay(start, factor, prompt_length, plan.eos_token_ids)
    if config.suppress_tokens is not None:
        yield _without(config.suppress_tokens)
    if config.begin_suppress_tokens is not None:
        first = prompt_length + (prompt_length < 2 and config.forced_bos_token_id is not None)
        yield _without(config.begin_suppress_tokens, only_at=first)


def _filters(plan: Plan) -> Iterable[Change]:
    config = plan.config
    # A beam must be able to go on where all likely tokens end it.
    least = 1 if config.num_beams == 1 else max(2, len(plan.eos_token_ids) + 1)
    if config.temperature != 1.0:
        yield lambda _, scores: scores / config.temperature
    if config.top_k:
        yield _top_k(config.top_k, least)
    if config.top_p < 1.0:
        yield _top_p(config.top_p, least)
    if config.min_p:
        yield _min_p(config.min_p, least)
    if config.typical_p < 1.0:
        yield _typical(config.typical_p, least)
    if 0.0 < config.epsilon_cutoff < 1.0:
        yield _epsilon(config.epsilon_cutoff, least)
    if 0.0 < config.eta_cutoff < 1.0:
        yield _eta(config.eta_cutoff, least)


def _pairs(biases: Any) -> Iterable[tuple[Sequence[int], float]]:
    pairs: Iterable[tuple[Sequence[int], float]]
    pairs = biases.items() if hasattr(biases, "items") else ((ids, bias) for ids, bias in biases)
    return pairs


def _bias(biases: dict[tuple[int, ...], float]) -> Change:
    """Add to the score of a token that would complete a sequence."""

    def change(ids: Tensor, scores: Tensor) -> Tensor:
        added = torch.zeros_like(scores)
        for (*before, token), bias in biases.items():
            if len(before) > ids.shape[1]:
                continue
            tail = ids[:, ids.shape[1] - len(before) :]
            completes = (tail == torch.tensor(before, device=ids.device, dtype=ids.dtype)).all(1)
            added[:, token] += torch.where(completes, bias, 0.0)
        return scores + added

    return change


def _no_repetition(penalty: float, starts: Tensor | None) -> Change:
    """Make tokens of prompt and answer less likely; those before ``starts`` are padding."""
    if not penalty > 0:
        raise ValueError(f"repetition_penalty is {penalty}; it must be above 0")

    def change(ids: Tensor, scores: Tensor) -> Tensor:
        B, V = scores.shape
        if starts is not None:
            rows = starts.to(ids.device).repeat_interleave(B // len(starts))
            is_padding = torch.arange(ids.shape[1], device=ids.device) < rows[:, None]
            ids = ids.masked_fill(is_padding, V)
        seen = torch.zeros(B, V + 1, dtype=torch.bool, device=scores.device)
        seen = seen.scatter(1, ids.clamp(max=V), True)[:, :V]
        return torch.where(
            seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores
        )

    return change


def _no_ngram_twice(size: int) -> Change:
    def change(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, tokens in zip(scores, ids.tolist(), strict=True):
            last = tokens[len(tokens) - size + 1 :]
            for start in range(len(tokens) - size + 1):
                if tokens[start : start + size - 1] == last:
                    row[tokens[start + size - 1]] = -math.inf
        return scores

    return change


def _without(tokens: Sequence[int] | Tensor, only_at: int | None = None) -> Change:
    def change(ids: Tensor, scores: Tensor) -> Tensor:
        if only_at is not None and ids.shape[1] != only_at:
            return scores
        return scores.index_fill(1, torch.as_tensor(tokens, device=scores.device), -math.inf)

    return change


def _without_until(tokens: Sequence[int], length: int) -> Change:
    without = _without(tokens)
    return lambda ids, scores: without(ids, scores) if ids.shape[1] < length else scores


def _force(tokens: Sequence[int], at: int) -> Change:
    def change(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] != at:
            return scores
        index = torch.as_tensor(tokens, device=scores.device)
        return torch.full_like(scores, -math.inf).index_fill(1, index, 0.0)

    return change


def _finite(_: Tensor, scores: Tensor) -> Tensor:
    limits = torch.finfo(scores.dtype)
    return scores.nan_to_num(nan=0.0, posinf=limits.max, neginf=limits.min)


def _decay(start: int, factor: float, prompt_length: int, ends: Sequence[int]) -> Change:
    """Make the end likelier with every token after the first ``start`` of an answer."""

    def change(ids: Tensor, scores: Tensor) -> Tensor:
        over = ids.shape[1] - prompt_length - start
        if over <= 0 or not ends:
            return scores
        index = torch.as_tensor(ends, device=scores.device)
        some = scores[:, index]
        return scores.index_add(1, index, some.abs() * (factor**over - 1))

    return change


def _only_allowed(allowed: Callable[[int, Tensor], list[int]], num_beams: int) -> Change:
    def change(ids: Tensor, scores: Tensor) -> Tensor:
        kept = torch.full_like(scores, -math.inf)
        for index, row in enumerate(ids):
            tokens = allowed(index // num_beams, row)
            if len(tokens) == 0:
                raise ValueError(
                    f"prefix_allowed_tokens_fn allows nothing for prompt {index // num_beams}; it "
                    "must return at least one id"
                )
            kept[index, tokens] = scores[index, tokens]
        return kept

    return change


def _drop(scores: Tensor, is_dropped: Tensor) -> Tensor:
    return scores.masked_fill(is_dropped, -math.inf)


def _kth(scores: Tensor, k: int) -> Tensor:
    """Give the k-th highest score of each row, ``[B, 1]``."""
    return scores.topk(min(k, scores.shape[-1]))[0][:, -1:]


def _top_k(k: int, least: int) -> Change:
    return lambda _, scores: _drop(scores, scores < _kth(scores, max(k, least)))


def _top_p(mass: float, least: int) -> Change:
    def change(_: Tensor, scores: Tensor) -> Tensor:
        ascending, order = scores.sort(descending=False)
        is_dropped = ascending.softmax(-1).cumsum(-1) <= 1 - mass
        is_dropped[:, -least:] = False
        return _drop(scores, is_dropped.scatter(1, order, is_dropped))

    return change


def _min_p(share: float, least: int) -> Change:
    def change(_: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(-1)
        is_dropped = probabilities < share * probabilities.amax(-1, keepdim=True)
        return _drop(scores, is_dropped & (scores < _kth(scores, least)))

    return change


def _typical(mass: float, least: int) -> Change:
    def change(_: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
        surprise = (-logs - entropy).abs()
        sorted_surprise, order = surprise.sort(descending=False)
        sums = scores.gather(-1, order).softmax(-1).cumsum(-1)
        last = (sums < mass).sum(1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        is_dropped = sorted_surprise > sorted_surprise.gather(1, last)
        is_dropped[:, :least] = False
        return _drop(scores, is_dropped.scatter(1, order, is_dropped))

    return change


def _epsilon(cutoff: float, least: int) -> Change:
    def change(_: Tensor, scores: Tensor) -> Tensor:
        return _drop(scores, (scores.softmax(-1) < cutoff) & (scores < _kth(scores, least)))

    return change


def _eta(cutoff: float, least: int) -> Change:
    def change(_: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
        eta = torch.minimum(torch.full_like(entropy, cutoff), cutoff**0.5 * (-entropy).exp())
        return _drop(scores, (logs.exp() < eta) & (scores < _kth(scores, least)))

    return change
