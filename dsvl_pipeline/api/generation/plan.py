"""What one call of `generate` is to do: its config with every default filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsvl_pipeline.api.generation.config import DEFAULTS, GenerationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to answer.

    Attributes:
        config: Without None where there is a default.
        max_new_tokens: Most new tokens of each answer.
        eos_token_ids: Any of these ends an answer; may be empty.
        pad_token_id: Fills behind shorter answers.
    """

    config: GenerationConfig
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int

    @property
    def num_rows_per_prompt(self) -> int:
        """Rows that are run for each prompt: beams, or answers."""
        return int(max(self.config.num_beams, self.config.num_return_sequences))


def make_plan(merged: GenerationConfig, width: int) -> Plan:
    """Return how to answer prompts that are padded to ``width`` tokens.

    Args:
        merged: Of `config.merge`; defaults are filled in.
        width: Tokens of the padded prompts, whether given as ids or as embeddings.

    Raises:
        ValueError: It asks for what cannot be done, or contradicts itself.
    """
    merged.check_supported()
    max_new_tokens = _num_new_tokens(merged, width)
    for name, value in DEFAULTS.items():
        if getattr(merged, name) is None:
            setattr(merged, name, value)
    _check(merged)
    eos = _ids(merged.eos_token_id)
    # Without an end of sequence nothing is ever padded.
    pad = merged.pad_token_id if merged.pad_token_id is not None else (*eos, 0)[0]
    return Plan(
        config=merged, max_new_tokens=max_new_tokens, eos_token_ids=eos, pad_token_id=int(pad)
    )


def _ids(found: int | Sequence[int] | Tensor | None) -> tuple[int, ...]:
    if found is None:
        return ()
    if isinstance(found, Tensor):
        found = found.tolist()
    return (found,) if isinstance(found, int) else tuple(map(int, found))


def _num_new_tokens(merged: GenerationConfig, width: int) -> int:
    """Return the most tokens of each answer; 20 where nobody says more."""
    default = DEFAULTS["max_length"]
    if merged.max_new_tokens is not None:
        found = int(merged.max_new_tokens)
        if found < 1:
            raise ValueError(f"max_new_tokens is {found}; it must be 1 or more")
        return found
    if merged.max_length is None:
        return int(default)
    if merged.max_length <= width:
        raise ValueError(
            f"the prompts take {width} tokens, but max_length is {merged.max_length}, answer "
            "included; raise it, or give max_new_tokens"
        )
    return int(merged.max_length) - width


def _check(config: GenerationConfig) -> None:
    """Raise ValueError for values that contradict one another."""
    answers, beams = config.num_return_sequences, config.num_beams
    if beams < 1 or answers < 1:
        raise ValueError(
            f"num_beams is {beams} and num_return_sequences {answers}; both must be 1 or more"
        )
    if beams > 1 and answers > beams:
        raise ValueError(f"num_return_sequences is {answers}, but num_beams only {beams}; raise it")
    if beams == 1 and answers > 1 and not config.do_sample:
        raise ValueError(
            f"greedy search has one answer, but num_return_sequences is {answers}; sample with "
            "do_sample=True, or search with num_beams"
        )
    if config.early_stopping not in (True, False, "never"):
        raise ValueError(
            f"early_stopping is {config.early_stopping!r}; it must be True, False or 'never'"
        )
    if config.do_sample and not config.temperature > 0:
        raise ValueError(
            f"temperature is {config.temperature}; it must be above 0 (do_sample=False takes the "
            "likeliest token)"
        )
    wants_more = any(
        getattr(config, f"output_{what}")
        for what in ("scores", "logits", "attentions", "hidden_states")
    )
    if wants_more and not config.return_dict_in_generate:
        # as in the reference: nothing could hold them
        for what in ("scores", "logits", "attentions", "hidden_states"):
            setattr(config, f"output_{what}", False)


def infer_mask(input_ids: Tensor, pad: int | None, eos_token_ids: Sequence[int]) -> Tensor:
    """Return a mask where nobody gave one, as transformers does: padding is what has the pad id.

    Unless that may as well be the end of sequence of a chat's earlier answer.
    """
    if pad is None or pad in eos_token_ids:
        return torch.ones_like(input_ids)
    return (input_ids != pad).to(input_ids.dtype)
