"""Random weights, drawn as the reference draws them.

Source of the behaviour: ``_init_weights`` of the ``deepseek_vl``, ``siglip``, ``sam`` and ``llama``
models, transformers 5.23.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import init

from dsvl_pipeline.api.config import DeepseekVLConfig, DeepseekVLHybridConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.llama import RmsNorm
from dsvl_pipeline.model.sam import SamTower
from dsvl_pipeline.model.siglip import SiglipTower

Config = DeepseekVLConfig | DeepseekVLHybridConfig

# How much narrower than asked a normal distribution becomes when it is cut off at two deviations.
_CUT_OFF_AT_TWO = 0.87962566103423978


def random_network(config: Config, *, has_head: bool) -> DeepseekVL:
    """Build a network with random weights, in torch's default dtype and on its default device."""
    with torch.device("meta"):
        network = DeepseekVL(config.model_config())
    network.text.embedding.padding_idx = padding_index(config)
    if not has_head:
        del network.lm_head
    frequencies, device = network.text.frequencies, torch.get_default_device()
    network.to_empty(device=device)
    network.text.frequencies = frequencies if device.type == "meta" else frequencies.to(device)
    initialise(network, config)
    return network


def padding_index(config: Config) -> int | None:
    """Return the id whose embedding is not learnt, if there is one in the vocabulary."""
    pad = config.text_config.pad_token_id
    return pad if pad is not None and pad < config.text_config.vocab_size else None


@torch.no_grad()
def initialise(network: DeepseekVL, config: Config) -> None:
    """Draw all weights of a network anew."""
    text_std = config.text_config.initializer_range or 0.02
    for module in network.modules():
        _draw(module, text_std)
    embedding = network.text.embedding
    if embedding.padding_idx is not None:
        init.zeros_(embedding.weight[embedding.padding_idx])
    _draw_siglip(network.low_res)
    if network.high_res is not None:
        assert isinstance(config, DeepseekVLHybridConfig), "the other has one tower"
        _draw_sam(network.high_res, config.high_res_vision_config.initializer_range or 0.02)


def _draw(module: nn.Module, std: float) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
        init.normal_(module.weight, std=std)
    elif isinstance(module, (nn.LayerNorm, RmsNorm)):
        init.ones_(module.weight)
    bias = getattr(module, "bias", None)
    if bias is not None:
        init.zeros_(bias)


def _draw_siglip(tower: SiglipTower) -> None:
    embedding = tower.patch_embedding
    fan_in = embedding.weight[0].numel()
    std = math.sqrt(1 / fan_in) / _CUT_OFF_AT_TWO
    init.trunc_normal_(embedding.weight, std=std)
    init.normal_(tower.position_embedding, std=tower.position_embedding.shape[1] ** -0.5)
    layer: Any
    for layer in tower.layers:
        for rows in layer.attention.qkv.weight.chunk(3):  # each is a matrix of its own
            init.xavier_uniform_(rows)
        for linear in (layer.attention.out, layer.mlp.up, layer.mlp.down):
            init.xavier_uniform_(linear.weight)
        for linear in (layer.mlp.up, layer.mlp.down):
            init.normal_(linear.bias, std=1e-6)


def _draw_sam(tower: SamTower, std: float) -> None:
    for module in [tower.patch_embedding, *tower.layers.modules()]:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.normal_(module.weight, std=std)
    layer: Any
    for layer in tower.layers:
        init.zeros_(layer.attention.rel_pos_h)
        init.zeros_(layer.attention.rel_pos_w)
    init.zeros_(tower.position_embedding)
    init.zeros_(tower.alpha)
    for module in tower.neck.modules():  # part of SAM's own model upstream; the rest is not
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, std=std)
    for part in (tower.global_neck, tower.projection):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
