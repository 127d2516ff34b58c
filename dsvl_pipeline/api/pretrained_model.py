"""What all public model classes are: a network of ours as a module with the reference's names.

Source of the behaviour: ``PreTrainedModel``, transformers 5.23.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from dsvl_pipeline.api.initialising import Config
from dsvl_pipeline.api.named_parts import Link
from dsvl_pipeline.model.deepseek_vl import DeepseekVL


class PretrainedModel(nn.Module):
    """A network with its config. Its parameters have the reference's names.

    Attributes:
        config: Its config.
    """

    config_class: ClassVar[type[Config]]
    base_model_prefix: ClassVar[str] = "model"
    main_input_name: ClassVar[str] = "input_ids"
    input_modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    supports_gradient_checkpointing: ClassVar[bool] = True

    config: Config
    _network: DeepseekVL
    _links: list[Link]

    def _take(self, config: Config, network: DeepseekVL, links: list[Link]) -> None:
        self.config = config
        self._links = links
        # not as a module: its parameters are those of the tree
        self.__dict__["_network"] = network
        self._checkpoints: dict[str, object] | None = None

    @property
    def network(self) -> DeepseekVL:
        """What computes, in step with what parameters and modules are now.

        It shares the memory of the parameters.
        """
        for link in self._links:
            link.follow()
        return self._network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the weights, and the network's other tensors after them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        text = self.network.text
        text.frequencies = text.frequencies.to(self.device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def base_model(self) -> PretrainedModel:
        """The model without head."""
        return cast("PretrainedModel", getattr(self, self.base_model_prefix, self))

    @classmethod
    def can_generate(cls) -> bool:
        """Return whether there is ``generate``."""
        return hasattr(cls, "generate")

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return cast("nn.Module", self.get_decoder().embed_tokens)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.get_decoder().embed_tokens = value

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the head; None where there is none."""
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head."""
        if hasattr(self, "lm_head"):
            self.lm_head = new_embeddings

    def get_decoder(self) -> nn.Module:
        """Return the weights of the language model."""
        return cast("nn.Module", self.base_model.language_model)

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Let the head share the embeddings' weight, if the config says so."""
        head = self.get_output_embeddings()
        if head is not None and self.config.tie_word_embeddings:
            head.weight = self.get_input_embeddings().weight

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count numbers in the parameters, those of embeddings and of frozen ones or not."""
        left_out = set()
        if exclude_embeddings:
            kinds = (m for m in self.modules() if isinstance(m, nn.Embedding))
            left_out = {id(module.weight) for module in kinds}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if id(parameter) not in left_out and (parameter.requires_grad or not only_trainable)
        )

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self._checkpoints is not None

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Compute the language model's layers again for gradients, instead of keeping all.

        Args:
            gradient_checkpointing_kwargs: Those of ``torch.utils.checkpoint.checkpoint``.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        unknown = options.keys() - inspect.signature(torch.utils.checkpoint.checkpoint).parameters
        if unknown:
            raise TypeError(f"checkpoint() takes no {', '.join(sorted(unknown))}")
        self._set_checkpoints(options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what is in the layers until gradients are computed."""
        self._set_checkpoints(None)

    def _set_checkpoints(self, options: dict[str, object] | None) -> None:
        for model in {self, self.base_model}:
            model._checkpoints = options
