"""The public models with head: scores, loss and answers.

Letters: ``B`` prompts, ``T`` tokens of the longest, ``N`` images of all prompts, ``D`` width, ``V``
vocabulary, ``S`` edge of a picture in pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dsvl_pipeline.api.arguments import ForwardArguments
from dsvl_pipeline.api.base_model import BaseModel, shaped
from dsvl_pipeline.api.dense import next_token_loss
from dsvl_pipeline.api.generation.config import GenerationConfig
from dsvl_pipeline.api.generation.mixin import GenerationMixin
from dsvl_pipeline.api.initialising import Config, random_network
from dsvl_pipeline.api.loading import LoadedModel
from dsvl_pipeline.api.named_parts import Link
from dsvl_pipeline.api.outputs import CausalOutput
from dsvl_pipeline.model.deepseek_vl import DeepseekVL


class CausalModel(LoadedModel, GenerationMixin):
    """The whole model."""

    _tied_weights_keys: ClassVar[dict[str, str] | None] = {
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }
    model_class: ClassVar[type[BaseModel]]
    model: BaseModel
    lm_head: nn.Module

    def __init__(self, config: Config, *, network: DeepseekVL | None = None) -> None:
        """Build a model of a config.

        Args:
            config: Its shape.
            network: What it computes with; by default a new one with random weights.
        """
        super().__init__()
        self._require_config(config)
        is_new = network is None
        if network is None:
            network = random_network(config, has_head=True)
        self.model = self.model_class(config, network=network)
        (self.lm_head,) = network.lm_head.split()
        head = Link(owner=network, name="lm_head", holders=((self, "lm_head"),))
        self._take(config, network, [*self.model._links, head])
        self.generation_config = GenerationConfig.from_model_config(config)
        if is_new:
            self.tie_weights()

    def get_image_features(self, *args: Any, **options: Any) -> Any:
        """Turn pictures into image tokens, as the model without head does."""
        return self.model.get_image_features(*args, **options)

    def run(self, given: ForwardArguments) -> CausalOutput | tuple[Any, ...]:
        """Do what ``forward`` does."""
        found = self.model.run_to_output(given)
        hidden = found.pop("last_hidden_state")
        logits = self.network.logits(_kept(hidden, given.logits_to_keep))
        loss = None
        if given.labels is not None:
            loss = next_token_loss(
                logits,
                given.labels,
                num_items_in_batch=given.num_items_in_batch,
                ignore_index=given.ignore_index,
                shift_labels=given.shift_labels,
            )
        return shaped(
            self.config, CausalOutput(loss=loss, logits=logits, **found), given.return_dict
        )


def _kept(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Choose tokens of ``[B, T, D]``: the last so many (0 is all), or by index or mask."""
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    if logits_to_keep.ndim == 1:
        return hidden[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden[logits_to_keep]
    return hidden.take_along_dim(logits_to_keep[..., None], dim=1)
