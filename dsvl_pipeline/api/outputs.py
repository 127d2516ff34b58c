"""What the public models return: values by attribute, key and index.

Letters: ``B`` prompts, ``T`` tokens of the longest, ``K`` keys, ``H`` heads, ``N`` images of all
prompts, ``L`` image tokens of one, ``D`` width, ``V`` vocabulary.

Source of the behaviour: ``ModelOutput``, transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from dsvl_pipeline.api.cache import DynamicCache


@dataclass(eq=False)
class ModelOutput(dict[str, Any]):
    """A dict of the values that are not None, which are attributes as well.

    An integer or a slice as index counts the values that are there. A dict may be given instead of
    the values.
    """

    def __post_init__(self) -> None:
        first = fields(self)[0].name
        given = getattr(self, first)
        if isinstance(given, Mapping):
            setattr(self, first, None)
            for name, value in given.items():
                self[name] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in self.__dataclass_fields__:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are there, in the order of the attributes."""
        return tuple(self[field.name] for field in fields(self) if field.name in self)

    def keys(self) -> Any:
        """Name the values that are there."""
        return {field.name: None for field in fields(self) if field.name in self}.keys()


@dataclass(eq=False)
class ImageFeatures(ModelOutput):
    """What the towers and the aligner make of pictures.

    Attributes:
        last_hidden_state: ``[N, L, width]`` of the low-resolution tower.
        pooler_output: ``[N, L, D]``: what takes the place of the image tokens.
        hidden_states: Of the low-resolution tower's layers, where asked for.
        attentions: Probabilities in the low-resolution tower, where asked for.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class HybridImageFeatures(ImageFeatures):
    """The same of two towers.

    Attributes:
        high_res_vision_last_hidden_state: ``[N, L, width]`` of the high-resolution tower.
        high_res_vision_hidden_states: Of its layers, ``[N, G, G, width]``; all where asked for,
            else but that of the first global layer.
        high_res_vision_attentions: Probabilities in it, where asked for.
    """

    high_res_vision_last_hidden_state: Tensor | None = None
    high_res_vision_hidden_states: tuple[Tensor | None, ...] | None = None
    high_res_vision_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutput(ModelOutput):
    """What a model without head computes.

    Attributes:
        last_hidden_state: ``[B, T, D]`` behind the final norm.
        past_key_values: Keys and values of all tokens so far, for the next call.
        hidden_states: ``[B, T, D]`` each, where asked for: the embeddings, and behind every layer;
            the last is ``last_hidden_state``.
        attentions: Probabilities ``[B, H, T, K]`` of each layer, where asked for.
        image_hidden_states: ``[N * L, D]``; None without images.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None


@dataclass(eq=False)
class CausalOutput(ModelOutput):
    """What the whole model computes.

    Attributes:
        loss: Cross entropy of the next tokens, where labels are given.
        logits: ``[B, T, V]``, or of the tokens that ``logits_to_keep`` names.
        past_key_values: As in `BaseModelOutput`, like the rest.
        hidden_states: Where asked for.
        attentions: Where asked for.
        image_hidden_states: None without images.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
