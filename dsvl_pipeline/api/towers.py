"""The towers with what they compute on the way.

Letters: ``N`` images, ``S`` edge of a picture in pixels, ``L`` patches, ``H`` heads, ``d`` width of
a head, ``D`` width.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dsvl_pipeline.api.outputs import HybridImageFeatures, ImageFeatures
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.sam import SamAttention, SamTower
from dsvl_pipeline.model.siglip import SiglipAttention, SiglipTower
from dsvl_pipeline.ops.image_attention import relative_scores


def encode(
    network: DeepseekVL,
    low_res: Tensor,
    high_res: Tensor | None,
    *,
    wants_states: bool,
    wants_attentions: bool,
) -> ImageFeatures:
    """Encode pictures as `DeepseekVL.encode_images` does, and return what lies between as well.

    Args:
        network: Whose towers and aligner.
        low_res: ``[N, 3, S, S]``.
        high_res: ``[N, 3, S, S]``; None for the single-tower architecture.
        wants_states: Whether to return hidden states.
        wants_attentions: Whether to return probabilities, which are computed apart.
    """
    kinds = {"wants_states": wants_states, "wants_attentions": wants_attentions}
    with _Recording(network.low_res, **kinds) as low:
        features = network.low_res(low_res)
    found: dict[str, Any] = {
        "last_hidden_state": features,
        "hidden_states": tuple(low.states) if wants_states else None,
        "attentions": tuple(low.attentions) if wants_attentions else None,
    }
    if network.high_res is None:
        return ImageFeatures(**found, pooler_output=network.aligner(features))
    first = network.high_res.first_global_layer + 1
    # without hidden states the one that the features are made of, as upstream
    only = None if wants_states else first
    kinds["wants_states"] = True
    with _Recording(network.high_res, **kinds, only=only) as high:
        high_features = network.high_res(high_res)
    states: tuple[Tensor | None, ...] = tuple(high.states)
    if only is not None:
        (state,) = high.states
        places = range(len(network.high_res.layers) + 1)
        states = tuple(state if place == first else None for place in places)
    return HybridImageFeatures(
        **found,
        pooler_output=network.aligner(features, high_features),
        high_res_vision_last_hidden_state=high_features,
        high_res_vision_hidden_states=states,
        high_res_vision_attentions=tuple(high.attentions) if wants_attentions else None,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Found:
    states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)


class _Recording:
    """While it is entered, collects what a tower's layers compute.

    With ``only`` the state behind that layer alone is kept, counted from 1. What other threads
    compute with the same tower meanwhile is theirs.
    """

    def __init__(
        self,
        tower: SiglipTower | SamTower,
        *,
        wants_states: bool,
        wants_attentions: bool,
        only: int | None = None,
    ) -> None:
        self._tower, self._only = tower, only
        self._thread = threading.get_ident()
        self._wants = (wants_states, wants_attentions)
        self._found = _Found()
        self._hooks = ExitStack()

    def __enter__(self) -> _Found:
        wants_states, wants_attentions = self._wants
        layer: Any
        for number, layer in enumerate(self._tower.layers, 1):
            hooks = []
            if wants_states and self._only in (None, number):
                hooks.append(layer.register_forward_hook(self._take_state))
            if wants_attentions:
                hooks.append(layer.attention.register_forward_hook(self._take_attention))
            for hook in hooks:
                self._hooks.callback(hook.remove)
        return self._found

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _take_state(self, _: nn.Module, given: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:
            return
        if self._only is None and not self._found.states:
            self._found.states.append(given[0])  # the embeddings: nothing is to be added to them
        hidden, delta = output
        self._found.states.append(hidden + delta)

    def _take_attention(self, module: Any, given: tuple[Any, ...], _: Any) -> None:
        if threading.get_ident() == self._thread:
            self._found.attentions.append(_attention(module, given[0]))


def _attention(module: SiglipAttention | SamAttention, hidden: Tensor) -> Tensor:
    """Return probabilities ``[N, H, L, L]``; of the grid's windows or images ``[N * H, L, L]``."""
    is_grid = isinstance(module, SamAttention)
    tokens = hidden.flatten(1, 2) if is_grid else hidden
    qkv = module.qkv(tokens).unflatten(-1, (3, module.num_heads, -1))  # (N, L, 3, H, d)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if isinstance(module, SamAttention):
        scores = scores + relative_scores(q, module.rel_pos_h, module.rel_pos_w)
    chances = torch.softmax(scores, dim=-1, dtype=torch.float32).to(hidden.dtype)
    return chances.flatten(0, 1) if is_grid else chances
