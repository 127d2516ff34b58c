"""The model in training: the project's own parameters, with a forward pass made for gradients.

The forward pass computes what `dsvl_pipeline.model` computes (a test holds them equal) on padded
batches instead of packed ones, and folds SAM's relative positions into queries and keys, so that
flash attention can run them. Letters as in the model's files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.llama import LlamaLayer
from dsvl_pipeline.model.sam import (
    SamAttention,
    SamLayer,
    SamNeck,
    SamTower,
)
from dsvl_pipeline.model.siglip import SiglipLayer, SiglipTower
from dsvl_pipeline.ops.image_norms import into_windows, out_of_windows
from tools.demo_checkpoint import shape
from tools.demo_checkpoint.batches import BEFORE_ANSWER_ID, BEFORE_IMAGE_IDS, NO_TARGET
from tools.demo_checkpoint.drawing import NUM_CLASSES, SLOTS

NUM_BEFORE_ANSWER = len(BEFORE_IMAGE_IDS) + shape.NUM_IMAGE_TOKENS + 2


class Reader(nn.Module):
    """The model, and a head that names what lies in each cell; the head is for training only."""

    def __init__(self, config: ModelConfig, *, seed: int) -> None:
        super().__init__()
        self.model = DeepseekVL(config)
        self.model.lm_head.weight = self.model.text.embedding.weight
        self.naming = nn.Linear(config.text.hidden_size, SLOTS * NUM_CLASSES)
        _initialise(self, config, seed)

    def image_tokens(self, low_res: Tensor, high_res: Tensor) -> Tensor:
        """Encode normalised pictures: ``[N, L, D]``."""
        assert self.model.high_res is not None
        low = _siglip(self.model.low_res, low_res)
        high = _sam(self.model.high_res, high_res)
        features: Tensor = self.model.aligner(low, high)
        return features

    def names(self, image_tokens: Tensor) -> Tensor:
        """Score what each slot of each cell may hold: ``[N, L, SLOTS, NUM_CLASSES]``."""
        scores: Tensor = self.naming(image_tokens)
        return scores.view(*scores.shape[:-1], SLOTS, NUM_CLASSES)

    def logits(self, image_tokens: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
        """Score the answer's tokens, each from those before it.

        Args:
            image_tokens: ``[N, L, D]``.
            prompt: ``int64[N]``, the token of what is asked.
            answer: ``int64[N, A]``; the last one is not read.

        Returns:
            ``[N, A, V]``.
        """
        text = self.model.text
        N, device = prompt.shape[0], prompt.device
        before = torch.tensor(BEFORE_IMAGE_IDS, device=device).expand(N, -1)
        after = torch.stack((prompt, torch.full_like(prompt, BEFORE_ANSWER_ID)), dim=1)
        read = answer[:, :-1].clamp(min=0)  # behind the end any token will do
        embedded = [
            text.embedding(before),
            image_tokens,
            text.embedding(torch.cat((after, read), 1)),
        ]
        hidden = torch.cat([part.float() for part in embedded], dim=1)
        angles = torch.arange(hidden.shape[1], device=device)[:, None] * text.frequencies
        cos, sin = angles.cos(), angles.sin()
        for layer in text.layers:
            assert isinstance(layer, LlamaLayer)
            hidden = _llama_layer(layer, hidden, cos, sin)
        hidden = _rms_norm(hidden[:, NUM_BEFORE_ANSWER - 1 :], text.norm.weight, text.norm.eps)
        return F.linear(hidden, text.embedding.weight)

    @torch.no_grad()
    def generate(self, low_res: Tensor, high_res: Tensor, prompt: Tensor, most: int) -> Tensor:
        """Answer greedily, computing everything anew for each token.

        Returns:
            ``int64[N, <= most]``; what follows an end of sequence means nothing.
        """
        image_tokens = self.image_tokens(low_res, high_res)
        answer = torch.zeros(prompt.shape[0], most + 1, dtype=torch.int64, device=prompt.device)
        is_done = torch.zeros_like(prompt, dtype=torch.bool)
        for index in range(most):
            # few lengths, and only what is needed of each
            length = min(most + 1, (index // 64 + 1) * 64)
            scores = self.logits(image_tokens, prompt, answer[:, :length])
            answer[:, index] = scores[:, index].argmax(-1)
            is_done |= answer[:, index] == shape.EOS_ID
            if index % 16 == 15 and bool(is_done.all()):
                break
        return answer[:, : index + 1]


def answer_loss(logits: Tensor, answer: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens."""
    return F.cross_entropy(logits.float().flatten(0, 1), answer.flatten(), ignore_index=NO_TARGET)


def naming_loss(names: Tensor, slots: Tensor) -> Tensor:
    """Mean over all slots and over those that hold something, which are few, in equal parts."""
    targets = slots.long().flatten()
    losses = F.cross_entropy(names.float().flatten(0, 2), targets, reduction="none")
    is_held = (targets > 0).float()
    return 0.5 * losses.mean() + 0.5 * (losses * is_held).sum() / is_held.sum().clamp(min=1)


def _siglip(tower: SiglipTower, pixel_values: Tensor) -> Tensor:
    patches = _patches(pixel_values, tower.patch_embedding).flatten(1, 2)
    hidden: Tensor = patches + tower.position_embedding
    for layer in tower.layers:
        assert isinstance(layer, SiglipLayer)
        # the layer's own forward has kernels without gradients on a GPU
        hidden = hidden + layer.attention(layer.attention_norm(hidden))
        hidden = hidden + layer.mlp(layer.mlp_norm(hidden))
    output: Tensor = tower.norm(hidden)
    return output


def _sam(tower: SamTower, pixel_values: Tensor) -> Tensor:
    hidden = _patches(pixel_values, tower.patch_embedding) + tower.position_embedding
    first_global = hidden
    for index, layer in enumerate(tower.layers):
        assert isinstance(layer, SamLayer)
        hidden = _sam_layer(layer, hidden)
        if index == tower.first_global_layer:
            first_global = hidden
    # The projection is linear and has no bias: once for the sum is what twice would give.
    necks = _neck(tower.neck, hidden) + tower.alpha * _neck(tower.global_neck, first_global)
    features: Tensor = tower.projection(necks)
    return features.flatten(2).transpose(1, 2)


def _sam_layer(layer: SamLayer, hidden: Tensor) -> Tensor:
    normed = layer.attention_norm(hidden)
    if layer.window_size is None:
        hidden = hidden + _sam_attention(layer.attention, normed)
    else:
        windows = _sam_attention(layer.attention, into_windows(normed, layer.window_size))
        hidden = hidden + out_of_windows(windows, hidden.shape[1])
    output: Tensor = hidden + layer.mlp(layer.mlp_norm(hidden))
    return output


def _sam_attention(attention: SamAttention, hidden: Tensor) -> Tensor:
    """Attend as `attend_grid` does.

    A query is followed by what it adds to the score of each row and each column, a key by ones at
    its own row and column: their product is the score with relative positions.
    """
    N, G, _, D = hidden.shape
    qkv = attention.qkv(hidden).view(N, G * G, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, G * G, d) each
    places = torch.arange(G, device=hidden.device)
    distances = places[:, None] - places[None, :] + G - 1  # (query, key)
    grid = q.unflatten(2, (G, G))
    by_row = torch.einsum("nhyxd,ykd->nhyxk", grid, attention.rel_pos_h[distances])
    by_column = torch.einsum("nhyxd,xkd->nhyxk", grid, attention.rel_pos_w[distances])
    d = q.shape[-1]
    query = torch.cat((q * d**-0.5, by_row.flatten(2, 3), by_column.flatten(2, 3)), dim=-1)
    ones = torch.eye(G, device=hidden.device, dtype=k.dtype)
    rows, columns = ones.repeat_interleave(G, dim=0), ones.repeat(G, 1)  # (G * G, G) each
    own = torch.cat((rows, columns), dim=-1).expand(N, k.shape[1], -1, -1)
    key = torch.cat((k, own), dim=-1)
    # flash attention wants values as wide as keys
    value = F.pad(v, (0, 2 * G))
    found = F.scaled_dot_product_attention(query.to(v.dtype), key, value, scale=1.0)[..., :d]
    output: Tensor = attention.out(found.transpose(1, 2).reshape(N, G, G, D))
    return output


def _neck(neck: SamNeck, hidden: Tensor) -> Tensor:
    features: Tensor = neck(hidden)
    return features


def _patches(pixel_values: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Project patches by a matrix product: ``[N, 3, S, S]`` to ``[N, G, G, D]``."""
    P = convolution.kernel_size[0]
    N, C, S, _ = pixel_values.shape
    tiles = pixel_values.view(N, C, S // P, P, S // P, P).permute(0, 2, 4, 1, 3, 5)
    return F.linear(tiles.flatten(3), convolution.weight.flatten(1), convolution.bias)


def _llama_layer(layer: LlamaLayer, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    attention, mlp = layer.attention, layer.mlp
    normed = _rms_norm(hidden, layer.attention_norm.weight, layer.attention_norm.eps)
    qkv = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, d) each
    found = F.scaled_dot_product_attention(
        _rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True
    )
    hidden = hidden + attention.out(found.transpose(1, 2).flatten(2))
    normed = _rms_norm(hidden, layer.mlp_norm.weight, layer.mlp_norm.eps)
    gate, up = mlp.gate_up(normed).chunk(2, dim=-1)
    output: Tensor = hidden + mlp.down(F.silu(gate) * up)
    return output


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))


def _initialise(reader: Reader, config: ModelConfig, seed: int) -> None:
    """Draw every parameter anew; projections into a residual stream the smaller, the deeper."""
    generator = torch.Generator().manual_seed(seed)
    assert config.high_res is not None
    depths = {
        "model.text.": config.text.num_layers,
        "model.high_res.": config.high_res.num_layers,
        "model.low_res.": config.low_res.num_layers,
    }
    for name, parameter in reader.named_parameters():
        leaf = name.rpartition(".")[2]
        with torch.no_grad():
            if leaf == "alpha":  # zero would keep the second neck from learning
                parameter.fill_(0.5)
            elif "rel_pos" in leaf or leaf == "bias":
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            elif "embedding" in name and "patch" not in name:
                parameter.normal_(0, 0.05, generator=generator)
            else:
                spread = 0.7 / math.sqrt(parameter[0].numel())
                if ".layers." in name and name.endswith(("out.weight", "down.weight")):
                    depth = next(n for start, n in depths.items() if name.startswith(start))
                    spread /= math.sqrt(2 * depth)
                parameter.normal_(0, spread, generator=generator)
