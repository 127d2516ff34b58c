"""One call of `generate`: who answers it, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsvl_pipeline.api.generation import config as config_names
from dsvl_pipeline.api.generation.beams import search
from dsvl_pipeline.api.generation.config import merge
from dsvl_pipeline.api.generation.on_engine import answer_on_engine
from dsvl_pipeline.api.generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
)
from dsvl_pipeline.api.generation.plan import Plan, infer_mask, make_plan
from dsvl_pipeline.api.generation.sampling import sample
from dsvl_pipeline.api.generation.scores import Change, score_changes
from dsvl_pipeline.api.generation.steps import Prompts, Steps
from dsvl_pipeline.api.generation.stopping import Criterion, Stop

PICTURES = ("pixel_values", "high_res_pixel_values")
# Of forward's arguments those that a prompt may have. `Steps` itself keeps the last scores alone.
_INPUTS = {
    *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "past_key_values"),
    *("logits_to_keep", *PICTURES),
}
# With these the engine answers as forward would, faster; others only forward can do. Those that
# plan.Plan works out itself are left out.
_ENGINE_NEEDS: Mapping[str, Any] = {
    **{
        name: config_names.DEFAULTS[name]
        for name in (
            "num_beams",
            "min_length",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "no_repeat_ngram_size",
            "return_dict_in_generate",
            "remove_invalid_values",
            "renormalize_logits",
            "use_cache",
        )
    },
    **dict.fromkeys(
        (
            "min_new_tokens",
            "max_time",
            "stop_strings",
            "bad_words_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "sequence_bias",
            "exponential_decay_length_penalty",
        )
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a caller may pass beside a config and a prompt.

    Attributes:
        logits_processor: Change scores, behind the config's penalties.
        stopping_criteria: End answers.
        prefix_allowed_tokens_fn: (prompt's index, ids) -> ids that may follow.
        streamer: Gets tokens as they come.
        tokenizer: For ``stop_strings``.
    """

    logits_processor: Iterable[Change] = ()
    stopping_criteria: Iterable[Criterion] = ()
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None
    streamer: Any = None
    tokenizer: Any = None

    @property
    def is_empty(self) -> bool:
        return not (
            self.logits_processor
            or self.stopping_criteria
            or self.prefix_allowed_tokens_fn
            or self.streamer
        )


@torch.no_grad()
def generate(
    model: Any,
    inputs: Tensor | None,
    generation_config: Any,
    extras: Extras,
    arguments: dict[str, Any],
) -> Any:
    """Answer prompts.

    Args:
        model: One of the public ones.
        inputs: ``int64[B, T]``, padded on the left; or None, and ``input_ids`` or
            ``inputs_embeds`` among the arguments.
        generation_config: A caller's own; see `merge`.
        extras: What else changes answers.
        arguments: By name: inputs of forward, and settings of the config.

    Returns:
        ``int64[B, T + new]``; without the prompts where they are embeddings alone. Or an output
        that holds it as ``sequences``.

    Raises:
        ValueError: An argument is unknown, or asks for what cannot be done.
        PromptError: The engine cannot run a prompt.
    """
    given = {name: arguments.pop(name) for name in _INPUTS & arguments.keys()}
    unknown = sorted(n for n in arguments.keys() - config_names.NAMES if arguments[n] is not None)
    if unknown:
        raise ValueError(
            f"generate() does not know the arguments {', '.join(map(repr, unknown))}; it takes "
            "those of forward, and the settings of a GenerationConfig"
        )
    merged = merge(model.generation_config, generation_config, arguments)
    if inputs is not None:
        given["input_ids"] = inputs
    for name, value in given.items():
        if isinstance(value, np.ndarray | list):
            given[name] = torch.as_tensor(value, device=model.device)
    ids = _ids(given, merged, model.device)
    width = ids.shape[1] if given.get("inputs_embeds") is None else given["inputs_embeds"].shape[1]
    plan = make_plan(merged, width)
    _check(plan, extras)
    prompts = _prompts(given, ids, plan)
    if _fits_engine(plan, extras, prompts, model.config.image_token_id):
        return answer_on_engine(model, prompts, plan)
    return _over_forward(model, prompts, plan, extras)


def _prompts(given: Mapping[str, Any], ids: Tensor, plan: Plan) -> Prompts:
    embeds, mask = given.get("inputs_embeds"), given.get("attention_mask")
    if mask is None and embeds is not None:
        mask = torch.ones_like(embeds[..., 0], dtype=torch.int64)
    elif mask is None:
        mask = infer_mask(ids, plan.pad_token_id, plan.eos_token_ids)
    return Prompts(
        input_ids=ids,
        attention_mask=mask,
        position_ids=given.get("position_ids"),
        inputs_embeds=embeds,
        past_key_values=given.get("past_key_values"),
        others={name: given[name] for name in PICTURES if given.get(name) is not None},
    )


def _ids(given: Mapping[str, Any], merged: Any, device: torch.device) -> Tensor:
    """Return the prompts' ids: none where embeddings are given instead, or a beginning alone."""
    ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
    if ids is not None:
        found: Tensor = ids
        return found
    if embeds is not None:
        return torch.empty(len(embeds), 0, dtype=torch.int64, device=embeds.device)
    if merged.bos_token_id is None:
        raise ValueError("generate() needs input_ids or inputs_embeds: there is no bos_token_id")
    return torch.full((1, 1), merged.bos_token_id, device=device)


def _check(plan: Plan, extras: Extras) -> None:
    if extras.streamer is not None and plan.config.num_beams > 1:
        raise ValueError("a streamer needs num_beams=1: beams change what was said before")
    if plan.config.stop_strings is not None and extras.tokenizer is None:
        raise ValueError("stop_strings needs the tokenizer: generate(..., tokenizer=...)")


def _fits_engine(plan: Plan, extras: Extras, prompts: Prompts, image_token_id: int) -> bool:
    """Return whether the engine gives the same answers as forward would."""
    config = plan.config
    is_plain = all(
        _does_nothing(getattr(config, name), neutral) for name, neutral in _ENGINE_NEEDS.items()
    )
    return (
        is_plain
        and extras.is_empty
        and prompts.inputs_embeds is None
        and prompts.past_key_values is None
        and prompts.position_ids is None
        and bool(prompts.input_ids.numel())
        and _has_plain_padding(prompts, image_token_id)
    )


def _does_nothing(value: Any, neutral: Any) -> bool:
    """Return whether a setting changes nothing: it is not set, empty, or at its neutral value."""
    if value is None or neutral is not None:
        return value is None or bool(value == neutral)
    return isinstance(value, list | tuple | dict) and not value


def _has_plain_padding(prompts: Prompts, image_token_id: int) -> bool:
    """Return whether what is masked lies before or behind a prompt, and is no picture.

    The engine takes padding out; in between, forward leaves a gap in the positions.
    """
    mask = prompts.attention_mask.bool()
    num_starts = mask[:, :1].sum(1) + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    hides_picture = ((prompts.input_ids == image_token_id) & ~mask).any()
    return bool((num_starts == 1).all()) and not bool(hides_picture)


def _over_forward(model: Any, prompts: Prompts, plan: Plan, extras: Extras) -> Any:
    config, ids = plan.config, prompts.input_ids
    wanted = {
        name: True
        for name in ("output_attentions", "output_hidden_states")
        if getattr(config, name)
    }
    steps = Steps(
        model,
        prompts,
        rows_per_prompt=plan.num_rows_per_prompt,
        wanted=wanted,
        use_cache=config.use_cache,
    )
    changes = score_changes(
        plan,
        prompts.attention_mask if prompts.attention_mask.shape == ids.shape else None,
        ids.shape[1],
        custom=extras.logits_processor,
        allowed_tokens=extras.prefix_allowed_tokens_fn,
    )
    stop = Stop(
        plan,
        ids.shape[1] + plan.max_new_tokens,
        custom=extras.stopping_criteria,
        tokenizer=extras.tokenizer,
    )
    fields: dict[str, Any] = {}
    if config.num_beams > 1:
        found, recording, scores, parents = search(steps, ids, plan, changes, stop)
        fields["sequences_scores"] = scores if config.output_scores else None
        fields["beam_indices"] = parents
        kind: Any = GenerateBeamDecoderOnlyOutput
    else:
        rows = ids.repeat_interleave(config.num_return_sequences, 0)
        found, recording = sample(steps, rows, plan, changes, stop, extras.streamer)
        kind = GenerateDecoderOnlyOutput
    if not config.return_dict_in_generate:
        return found
    return kind(sequences=found, **recording.fields(), **fields, past_key_values=steps.cache)
