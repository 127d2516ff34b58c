"""The public model classes, over this project's own model and engine.

``forward`` takes its arguments in the order of the reference.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from dsvl_pipeline.api.arguments import ForwardArguments, ForwardOptions
from dsvl_pipeline.api.base_model import BaseModel
from dsvl_pipeline.api.cache import DynamicCache
from dsvl_pipeline.api.causal_model import CausalModel
from dsvl_pipeline.api.config import DeepseekVLConfig, DeepseekVLHybridConfig
from dsvl_pipeline.api.loading import LoadedModel
from dsvl_pipeline.api.outputs import BaseModelOutput, CausalOutput


class DeepseekVLPreTrainedModel(LoadedModel):
    """What models with one tower are."""

    config_class = DeepseekVLConfig


class DeepseekVLModel(BaseModel, DeepseekVLPreTrainedModel):
    """Tower and language model without the head."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **options: Unpack[ForwardOptions],
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Run prompts, as the processor makes them; see `ForwardArguments`."""
        return self.run(
            ForwardArguments(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                mm_encoder_outputs=mm_encoder_outputs,
                **options,
            )
        )


class DeepseekVLForConditionalGeneration(CausalModel, DeepseekVLPreTrainedModel):
    """The whole model with one tower."""

    model_class = DeepseekVLModel

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **options: Unpack[ForwardOptions],
    ) -> CausalOutput | tuple[Any, ...]:
        """Run prompts, as the processor makes them; see `ForwardArguments`."""
        return self.run(
            ForwardArguments(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                mm_encoder_outputs=mm_encoder_outputs,
                labels=labels,
                logits_to_keep=logits_to_keep,
                **options,
            )
        )


class DeepseekVLHybridPreTrainedModel(LoadedModel):
    """What models with two towers are."""

    config_class = DeepseekVLHybridConfig


class DeepseekVLHybridModel(BaseModel, DeepseekVLHybridPreTrainedModel):
    """Two towers and language model without the head."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **options: Unpack[ForwardOptions],
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Run prompts, as the processor makes them; see `ForwardArguments`."""
        return self.run(
            ForwardArguments(
                input_ids=input_ids,
                pixel_values=pixel_values,
                high_res_pixel_values=high_res_pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                mm_encoder_outputs=mm_encoder_outputs,
                **options,
            )
        )


class DeepseekVLHybridForConditionalGeneration(CausalModel, DeepseekVLHybridPreTrainedModel):
    """The whole model with two towers."""

    model_class = DeepseekVLHybridModel

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **options: Unpack[ForwardOptions],
    ) -> CausalOutput | tuple[Any, ...]:
        """Run prompts, as the processor makes them; see `ForwardArguments`."""
        return self.run(
            ForwardArguments(
                input_ids=input_ids,
                pixel_values=pixel_values,
                high_res_pixel_values=high_res_pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                mm_encoder_outputs=mm_encoder_outputs,
                labels=labels,
                logits_to_keep=logits_to_keep,
                **options,
            )
        )
