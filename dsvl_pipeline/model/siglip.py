"""The low-resolution tower: SigLIP's vision transformer without its pooling head.

Letters: ``N`` images, ``S`` edge in pixels, ``L`` patches, ``D`` width.

Source: ``SiglipVisionModel``, transformers 5.23; Zhai et al. 2023, arXiv:2303.15343.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsvl_pipeline.model.config import SiglipConfig
from dsvl_pipeline.model.layer_norm import add_norm
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.ops.image_attention import attend_image
from dsvl_pipeline.ops.patches import embed_patches


class SiglipTower(nn.Module):
    """Pictures to one feature per patch."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        D, patch = config.hidden_size, config.patch_size_px
        self.patch_embedding = nn.Conv2d(3, D, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.empty(config.grid_size**2, D))
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(D, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode ``[N, 3, S, S]`` to ``[N, L, D]``, row by row."""
        first = self.patch_embedding
        patches = embed_patches(pixel_values, first.weight, first.bias).flatten(1, 2)
        hidden: Tensor = patches + self.position_embedding  # (N, L, D)
        delta: Tensor | None = None
        for layer in self.layers:
            hidden, delta = layer(hidden, delta)
        return add_norm(self.norm, hidden, delta)[1]


class SiglipLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input.

    The last addition is left to the norm behind it, which may be the next layer's: one pass over
    memory instead of two.
    """

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SiglipAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipMlp(config)

    def forward(self, hidden: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take and give two ``[N, L, D]`` that are to be added; None is nothing."""
        hidden, normed = add_norm(self.attention_norm, hidden, delta)
        hidden, normed = add_norm(self.mlp_norm, hidden, self.attention(normed))
        return hidden, self.mlp(normed)


class SiglipAttention(nn.Module):
    """Every patch attends to every patch of its image."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_heads
        self.qkv = Linear(D, D, D, D)
        self.out = Linear(D, D)

    def forward(self, hidden: Tensor) -> Tensor:
        qkv = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1))  # (N, L, 3, H, D / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        found = attend_image(q, k, v).transpose(1, 2).flatten(2)  # (N, L, D)
        output: Tensor = self.out(found)
        return output


class SiglipMlp(nn.Module):
    """Two projections with GELU between them."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down(F.gelu(self.up(hidden), approximate=self.approximate))
        return output
