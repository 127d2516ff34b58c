"""The engine's names for choosing tokens; the work is `ops.sampling`'s."""

from __future__ import annotations

from dsvl_pipeline.ops.sampling import (
    SamplingTensors,
    sample,
    sample_with_logprobs,
    token_logprobs,
)

__all__ = ["SamplingTensors", "sample", "sample_with_logprobs", "token_logprobs"]
