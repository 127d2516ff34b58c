"""When an answer ends, beside its length.

Source of the behaviour: ``stopping_criteria.py``, transformers 5.23.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dsvl_pipeline.api.generation.plan import Plan

Criterion = Callable[[Tensor, Any], Tensor | bool]
"""(ids ``[B, T]``, scores of all steps or None) -> ``bool[B]``, or one bool for all."""

# A stop string is looked for in the text of so many tokens: a token is a byte or more.
_SPARE_TOKENS = 8


class Stop:
    """Whether rows end: at a length, an end of sequence, a time, a text, or a caller's wish."""

    def __init__(
        self,
        plan: Plan,
        max_length: int,
        *,
        custom: Iterable[Criterion] = (),
        tokenizer: Any = None,
    ) -> None:
        config = plan.config
        self._max_length = max_length
        self._ends = plan.eos_token_ids
        self._criteria: list[Criterion] = list(custom)
        if config.max_time is not None:
            deadline = time.monotonic() + config.max_time
            self._criteria.append(lambda _ids, _scores: time.monotonic() > deadline)
        if config.stop_strings is not None:
            strings = config.stop_strings
            self._criteria.append(
                _stop_strings([strings] if isinstance(strings, str) else strings, tokenizer)
            )

    def __call__(self, ids: Tensor, scores: Any = None) -> Tensor:
        """Return ``bool[B]``: which rows, ``[B, T]``, end with their last token."""
        done = torch.full(ids.shape[:1], ids.shape[1] >= self._max_length, device=ids.device)
        if self._ends:
            done |= torch.isin(ids[:, -1], torch.tensor(self._ends, device=ids.device))
        for criterion in self._criteria:
            done |= torch.as_tensor(criterion(ids, scores), device=ids.device)
        return done


def _stop_strings(strings: Sequence[str], tokenizer: Any) -> Criterion:
    if tokenizer is None:
        raise ValueError("stop_strings needs the tokenizer: generate(..., tokenizer=...)")
    width = max(len(string.encode()) for string in strings) + _SPARE_TOKENS

    def ends(row: list[int]) -> bool:
        text, before = tokenizer.decode(row), tokenizer.decode(row[:-1])
        # one that was there already has ended nothing: it stood in the prompt
        return any(
            string in text and text.rfind(string) + len(string) > len(before) for string in strings
        )

    return lambda ids, _: torch.tensor([ends(row) for row in ids[:, -width:].tolist()])
