"""``generate`` as a method of the models with head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from dsvl_pipeline.api.generation.arguments import GenerateArguments
from dsvl_pipeline.api.generation.config import GenerationConfig
from dsvl_pipeline.api.generation.generate import Extras, generate
from dsvl_pipeline.api.generation.scores import Change
from dsvl_pipeline.api.generation.stopping import Criterion


class GenerationMixin:
    """What a model that scores tokens needs to answer prompts.

    Attributes:
        generation_config: What `generate` does where a call says nothing.
    """

    generation_config: GenerationConfig

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Sequence[Change] | None = None,
        stopping_criteria: Sequence[Criterion] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        custom_generate: Any = None,
        **arguments: Unpack[GenerateArguments],
    ) -> Any:
        """Answer prompts: on an engine of this project where it can, else over ``forward``.

        Sampling follows ``torch.manual_seed``; the engine draws other numbers than transformers.

        Args:
            inputs: ``int64[B, T]``, padded on the left; or ``input_ids`` or ``inputs_embeds``.
            generation_config: Wins over the model's own; ours, transformers', or a dict.
            logits_processor: (ids, scores) -> scores, run behind the penalties.
            stopping_criteria: (ids, scores) -> ``bool[B]``, which answers end.
            prefix_allowed_tokens_fn: (prompt's index, ids) -> ids that may follow.
            synced_gpus: Must not be true: each call runs on one device.
            assistant_model: Accepted, and not used: it would change speed, not answers.
            streamer: Gets prompts and tokens with ``put``, and an ``end``.
            negative_prompt_ids: Must be None, as the next two.
            negative_prompt_attention_mask: None.
            custom_generate: None.
            arguments: Inputs of forward, and settings of a `GenerationConfig`.

        Returns, and raises: As `dsvl_pipeline.api.generation.generate.generate`.
        """
        negative = (negative_prompt_ids, negative_prompt_attention_mask)
        _refuse(negative, custom_generate, synced_gpus)
        values: dict[str, Any] = dict(arguments)
        extras = Extras(
            logits_processor=logits_processor or (),
            stopping_criteria=stopping_criteria or (),
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            streamer=streamer,
            tokenizer=values.pop("tokenizer", None),
        )
        return generate(self, inputs, generation_config, extras, values)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **others: Any,
    ) -> dict[str, Any]:
        """Return what forward gets for the next step of a caller's own loop.

        Args:
            input_ids: ``int64[B, T]``, all so far.
            next_sequence_length: How many of the last are new; by default those not in the cache.
            past_key_values: The cache.
            attention_mask: ``[B, T]``.
            inputs_embeds: Of the prompts, taken in the first step instead of their ids.
            is_first_iteration: Whether pictures are still to be seen.
            others: Handed on; pictures in the first step alone.
        """
        if next_sequence_length is None and past_key_values is not None:
            next_sequence_length = input_ids.shape[1] - past_key_values.get_seq_length()
        ids = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
        found: dict[str, Any] = {"input_ids": ids.clone(memory_format=torch.contiguous_format)}
        if inputs_embeds is not None and is_first_iteration:
            found = {"input_ids": None, "inputs_embeds": inputs_embeds}
        is_later = not is_first_iteration and past_key_values is not None
        for name, value in others.items():
            if not (is_later and name in ("pixel_values", "high_res_pixel_values")):
                found[name] = value
        positions = found.get("position_ids")
        if positions is not None and next_sequence_length is not None:
            found["position_ids"] = positions[:, -next_sequence_length:]
        return {**found, "past_key_values": past_key_values, "attention_mask": attention_mask}


def _refuse(negative: tuple[Any, ...], custom_generate: Any, synced_gpus: bool | None) -> None:
    if custom_generate is not None:
        raise ValueError("custom_generate: generate() runs no code of others")
    if synced_gpus:
        raise ValueError("synced_gpus=True: a call runs on one device here; leave it out")
    if any(one is not None for one in negative):
        raise ValueError("generate() has no negative prompts: there is no guidance_scale here")
