"""Sampling settings as the tensors that `sample` reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsvl_pipeline.ops.values import SamplingTensors
from dsvl_pipeline.records import SamplingParams


def tensors(
    rows: Sequence[SamplingParams],
    *,
    position: int = 0,
    seen: Tensor | None = None,
    allowed: Tensor | None = None,
) -> SamplingTensors:
    """Put settings into the tensors that `sample` reads."""
    return SamplingTensors(
        temperature=torch.tensor([row.temperature for row in rows]),
        top_k=torch.tensor([row.top_k for row in rows]),
        top_p=torch.tensor([row.top_p for row in rows], dtype=torch.float64),
        min_p=torch.tensor([row.min_p for row in rows]),
        repetition_penalty=torch.tensor([row.repetition_penalty for row in rows]),
        seed=torch.tensor([row.seed for row in rows]),
        position=torch.full((len(rows),), position),
        seen=seen,
        is_sampled=any(row.temperature > 0 for row in rows),
        is_filtered=any(row.top_k or row.top_p < 1 or row.min_p for row in rows),
        allowed=allowed,
    )


def to_words(allowed: Tensor) -> Tensor:
    """Pack ``bool[B, V]`` into ``int32[B, ceil(V / 32)]``, by Python's numbers."""
    words = []
    for row in allowed.tolist():
        values = [
            sum(bit << n for n, bit in enumerate(row[w : w + 32])) for w in range(0, len(row), 32)
        ]
        words.append([value - (1 << 32) if value >> 31 else value for value in values])
    return torch.tensor(words, dtype=torch.int32)
