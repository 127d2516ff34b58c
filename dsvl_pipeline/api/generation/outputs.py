"""What ``generate`` returns with ``return_dict_in_generate``.

Letters: ``R`` answers of all prompts, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsvl_pipeline.api.outputs import ModelOutput


@dataclass(eq=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """Answers of greedy search or sampling.

    Attributes:
        sequences: ``int64[R, T + new]``, prompts and answers.
        scores: Of every new token ``[R, V]``, behind penalties and filters, where asked for.
        logits: The same before them.
        attentions: Of every step, as forward gives them.
        hidden_states: Of every step, as forward gives them.
        past_key_values: Of all tokens but the last.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Any = None


@dataclass(eq=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Answers of a beam search: as `GenerateDecoderOnlyOutput`, with rows of beams in the steps.

    Attributes:
        sequences: ``int64[R, T + new]``, the best first.
        sequences_scores: ``[R]``, log-probabilities by length, where scores are asked for.
        scores: Log-probabilities of every step.
        logits: Of every step.
        beam_indices: ``int64[R, new]``, the row that each new token followed; -1 behind the end.
        attentions: Of every step.
        hidden_states: Of every step.
        past_key_values: Of the beams that would have gone on.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Any = None
