"""The public models without head: towers, aligner and language model.

Letters: ``N`` images of all prompts, ``L`` image tokens of one, ``M`` those of all, ``D`` width,
``S`` edge of a picture in pixels.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from dsvl_pipeline.api.arguments import ForwardArguments
from dsvl_pipeline.api.cache import DynamicCache
from dsvl_pipeline.api.dense import DensePass, run_dense
from dsvl_pipeline.api.initialising import Config, padding_index, random_network
from dsvl_pipeline.api.loading import LoadedModel
from dsvl_pipeline.api.named_parts import hang
from dsvl_pipeline.api.outputs import BaseModelOutput, ModelOutput
from dsvl_pipeline.api.towers import encode
from dsvl_pipeline.model.deepseek_vl import DeepseekVL

_Output = TypeVar("_Output", bound=ModelOutput)


class BaseModel(LoadedModel):
    """Towers and language model without the head."""

    def __init__(self, config: Config, *, network: DeepseekVL | None = None) -> None:
        """Build a model of a config.

        Args:
            config: Its shape.
            network: What it computes with; by default a new one with random weights.
        """
        super().__init__()
        self._require_config(config)
        if network is None:
            network = random_network(config, has_head=False)
        network.text.embedding.padding_idx = padding_index(config)
        self._take(config, network, hang(network, self))

    def get_image_features(
        self,
        pixel_values: Tensor,
        high_res_pixel_values: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Turn pictures, as the processor makes them, into image tokens.

        Args:
            pixel_values: ``[N, 3, S, S]`` for the low-resolution tower.
            high_res_pixel_values: ``[N, 3, S, S]`` for the other tower, if there is one.
            output_hidden_states: Whether to return hidden states; by default as the config says.
            output_attentions: Whether to return probabilities; by default as the config says.
            return_dict: Whether to return an output rather than a tuple; by default as the config
                says.

        Returns:
            `ImageFeatures` or `HybridImageFeatures`, or a tuple.
        """
        network, config = self.network, self.config
        is_hybrid = network.high_res is not None
        if (high_res_pixel_values is not None) != is_hybrid:
            wanted, found = ("", "no ") if is_hybrid else ("no ", "")
            raise ValueError(
                f"the model has {wanted}high-resolution tower, but {found}high_res_pixel_values "
                "were given; use the processor of the same checkpoint"
            )
        high_res = high_res_pixel_values
        if high_res is not None:
            high_res = high_res.to(self.device, self.dtype)
        output = encode(
            network,
            pixel_values.to(self.device, self.dtype),
            high_res,
            wants_states=_chosen(output_hidden_states, config.output_hidden_states),
            wants_attentions=_chosen(output_attentions, config.output_attentions),
        )
        return shaped(config, output, return_dict)

    def run(self, given: ForwardArguments) -> BaseModelOutput | tuple[Any, ...]:
        """Do what ``forward`` does."""
        return shaped(self.config, self.run_to_output(given), given.return_dict)

    def run_to_output(self, given: ForwardArguments) -> BaseModelOutput:
        """Do it, and return no tuple."""
        if (given.input_ids is None) == (given.inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        network, embeddings = self.network, given.inputs_embeds
        if embeddings is None:
            embeddings = cast("Tensor", network.text.embedding(given.input_ids))
        images = self._images(given)
        if images is not None:
            images = images.flatten(0, -2).to(embeddings)  # (M, D)
            embeddings = self._merge(given.input_ids, embeddings, images)
        wanted = self._wanted(given)
        hidden = run_dense(network, embeddings, given.attention_mask, given.position_ids, wanted)
        return BaseModelOutput(
            last_hidden_state=hidden,
            past_key_values=wanted.cache,
            hidden_states=tuple(wanted.states) if wanted.wants_states else None,
            attentions=tuple(wanted.attentions) if wanted.wants_attentions else None,
            image_hidden_states=images,
        )

    def _wanted(self, given: ForwardArguments) -> DensePass:
        """Fill in what the config decides."""
        config, cache = self.config, given.past_key_values
        is_checkpointed = self._checkpoints is not None and self.training
        use_cache = _chosen(given.use_cache, config.text_config.use_cache)
        if cache is None and use_cache and not is_checkpointed:
            cache = DynamicCache()
        return DensePass(
            cache=cache,
            wants_states=_chosen(given.output_hidden_states, config.output_hidden_states),
            wants_attentions=_chosen(given.output_attentions, config.output_attentions),
            checkpoints=self._checkpoints if is_checkpointed else None,
        )

    def _images(self, given: ForwardArguments) -> Tensor | None:
        """Return features ``[N, L, D]``, encoded now or before."""
        encoded, pixel_values = given.mm_encoder_outputs, given.pixel_values
        if encoded is not None and encoded.get("image") is not None:
            if pixel_values is not None:
                raise ValueError("give either pixel_values or mm_encoder_outputs, and not both")
            return cast("Tensor", encoded["image"].pooler_output)
        if pixel_values is None:
            return None
        found = self.get_image_features(pixel_values, given.high_res_pixel_values, return_dict=True)
        return cast("Tensor", found.pooler_output)

    def _merge(self, ids: Tensor | None, embeddings: Tensor, images: Tensor) -> Tensor:
        """Put image features ``[M, D]`` in the place of image tokens."""
        image_token_id = self.config.image_token_id
        if ids is None:
            image = self.get_input_embeddings()(torch.tensor(image_token_id, device=self.device))
            is_image = (embeddings == image).all(-1)
        else:
            is_image = (ids == image_token_id).to(embeddings.device)
        num_tokens, num_features = int(is_image.sum()), images.shape[0]
        if num_tokens != num_features:
            raise ValueError(
                f"Image features and image tokens do not match: the prompts hold {num_tokens} "
                f"image tokens, but the images give {num_features} features"
            )
        return embeddings.masked_scatter(is_image[..., None], images)


def shaped(config: Config, output: _Output, return_dict: bool | None) -> _Output | tuple[Any, ...]:
    """Give an output itself, or a tuple where that is asked for; the config decides on None."""
    return output if _chosen(return_dict, config.return_dict) else output.to_tuple()


def _chosen(given: bool | None, default: bool) -> bool:
    return bool(default if given is None else given)
