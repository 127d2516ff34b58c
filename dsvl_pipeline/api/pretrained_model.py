"""What all public model classes are: a network of ours as a module with the reference's names.

Source of the behaviour: ``PreTrainedModel``, transformers 5.23.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from dsvl_pipeline.api.initialising import Config, initialise
from dsvl_pipeline.api.load_options import Attention, require_attention
from dsvl_pipeline.api.looked_up import LookedUp
from dsvl_pipeline.api.named_parts import Link
from dsvl_pipeline.api.resizing import resized
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.linear import Linear

_CHECKPOINTS: dict[str, Any] = {"use_reentrant": False}


class PretrainedModel(LookedUp, nn.Module):
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

    @classmethod
    def _require_config(cls, config: object) -> None:
        if not isinstance(config, cls.config_class):
            raise TypeError(
                f"{cls.__name__} is made of a {cls.config_class.__name__}, not of a "
                f"{type(config).__name__}; {cls.__name__}.from_pretrained loads a checkpoint"
            )

    def _take(self, config: Config, network: DeepseekVL, links: list[Link]) -> None:
        self.config = config
        parts = {"": config, **{key: getattr(config, key) for key in config.sub_configs}}
        config._attn_implementation = {
            key: part._attn_implementation or "sdpa" for key, part in parts.items()
        }
        self._links = links
        # not as a module: its parameters are those of the tree
        self.__dict__["_network"] = network
        is_checkpointed = getattr(config, "gradient_checkpointing", False)
        self._checkpoints: dict[str, Any] | None = _CHECKPOINTS if is_checkpointed else None

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
        if self.device.type != "meta":  # they could not come back from there
            text.frequencies = text.frequencies.to(self.device)
        return self

    def init_weights(self) -> None:
        """Draw all weights anew."""
        initialise(self.network, self.config)
        self.tie_weights()

    def post_init(self) -> None:
        """Do nothing: weights are drawn when a model is made."""

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
    def _from_config(
        cls,
        config: Config,
        *,
        dtype: torch.dtype | str | None = None,
        attn_implementation: Attention | None = None,
    ) -> Self:
        """Build a model with random weights, as ``from_config`` of an automatic class does."""
        if attn_implementation is not None:
            config._attn_implementation = require_attention(attn_implementation)
        if dtype is not None:
            config.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        model = cls(config)
        return model if config.dtype is None else model.to(config.dtype)

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        return (self._tied_weights_keys or {}) if self.config.tie_word_embeddings else {}

    @classmethod
    def can_generate(cls) -> bool:
        """Return whether there is ``generate``."""
        return hasattr(cls, "generate")

    def get_input_embeddings(self) -> Any:
        """Return the token embeddings."""
        return self.get_decoder().embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.get_decoder().embed_tokens = value

    def get_output_embeddings(self) -> Any:
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

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Any:
        """Give embeddings and head more rows, or fewer, and return the embeddings.

        Args:
            new_num_tokens: How many rows; by default as many as there are.
            pad_to_multiple_of: What the number is rounded up to.
            mean_resizing: Whether new rows are like the mean of the old ones, or random.
        """
        embeddings = self.get_input_embeddings()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return embeddings
        num_rows = embeddings.weight.shape[0] if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            if not isinstance(pad_to_multiple_of, int):
                raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}, no integer")
            num_rows = -(-num_rows // pad_to_multiple_of) * pad_to_multiple_of
        std = self.config.text_config.initializer_range
        is_tied = self.config.tie_word_embeddings
        for module in (embeddings, None if is_tied else self.get_output_embeddings()):
            if module is not None:
                module.weight = resized(module.weight, num_rows, std=std, is_mean=mean_resizing)
        self.tie_weights()
        self._note_vocabulary(num_rows)
        return embeddings

    def _note_vocabulary(self, num_rows: int) -> None:
        self.config.text_config.vocab_size = num_rows
        embeddings, head = self.get_input_embeddings(), self.get_output_embeddings()
        if isinstance(embeddings, nn.Embedding):
            embeddings.num_embeddings = num_rows
        for linear in (head, getattr(self._network, "lm_head", None)):
            if isinstance(linear, Linear):
                linear.out_features, linear.part_sizes = num_rows, (num_rows,)
        shape = self._network.config
        self._network.config = replace(shape, text=replace(shape.text, vocab_size=num_rows))

    @property
    def vocab_size(self) -> int:
        return self.config.text_config.vocab_size

    def set_attn_implementation(self, attn_implementation: Attention) -> None:
        """Set the config's value, which changes nothing else: the kernels follow the device."""
        self.config._attn_implementation = require_attention(attn_implementation)

    def enable_input_require_grads(self) -> None:
        """Let embeddings need gradients where their weight needs none, for adapters."""
        hook = self.get_input_embeddings().register_forward_hook(
            lambda _module, _given, output: output.requires_grad_(True)
        )
        self._input_hook = hook

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        self._input_hook.remove()

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
        options = {**_CHECKPOINTS, **(gradient_checkpointing_kwargs or {})}
        unknown = options.keys() - inspect.signature(torch.utils.checkpoint.checkpoint).parameters
        if unknown:
            raise TypeError(f"checkpoint() takes no {', '.join(sorted(unknown))}")
        self._set_checkpoints(options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what is in the layers until gradients are computed."""
        self._set_checkpoints(None)

    def _set_checkpoints(self, options: dict[str, Any] | None) -> None:
        for model in {self, self.base_model}:
            model._checkpoints = options
