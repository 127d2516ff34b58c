"""The high-resolution tower: SAM's image encoder, two necks, and the projection to SigLIP's grid.

Letters: ``N`` images, ``S`` edge in pixels, ``G`` patches along an edge, ``D`` width, ``C`` output
channels of a neck, ``W`` edge of a window in patches, ``g`` patches along SigLIP's edge.

Source: ``SamVisionEncoder`` and ``DeepseekVLHybridModel``, transformers 5.23; Kirillov et al. 2023,
arXiv:2304.02643; DeepSeek-VL, arXiv:2403.05525, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsvl_pipeline.model.config import SamConfig
from dsvl_pipeline.model.layer_norm import add_norm
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.ops.image_attention import attend_grid
from dsvl_pipeline.ops.patches import embed_patches


class SamTower(nn.Module):
    """Pictures to one feature per patch of the low-resolution grid.

    Args:
        config: The tower's shape.
        output_grid_size: ``g``, the grid that the features are brought to.
    """

    def __init__(self, config: SamConfig, output_grid_size: int) -> None:
        super().__init__()
        D, G, C = config.hidden_size, config.grid_size, config.output_channels
        patch = config.patch_size_px
        self.first_global_layer = config.global_layers[0]
        self.patch_embedding = nn.Conv2d(3, D, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.empty(1, G, G, D))
        self.layers = nn.ModuleList(
            SamLayer(
                config, window_size=None if index in config.global_layers else config.window_size
            )
            for index in range(config.num_layers)
        )
        self.neck = SamNeck(D, C)
        self.global_neck = SamNeck(D, C)
        self.projection = SamProjection(C, output_grid_size)
        self.alpha = nn.Parameter(torch.empty(1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode ``[N, 3, S, S]`` to ``[N, g * g, 4 * C]``, row by row."""
        first = self.patch_embedding
        patches = embed_patches(pixel_values, first.weight, first.bias)
        hidden: Tensor = patches + self.position_embedding  # (N, G, G, D)
        first_global = hidden
        delta: Tensor | None = None
        for index, layer in enumerate(self.layers):
            hidden, delta = layer(hidden, delta)
            if index == self.first_global_layer:
                first_global = hidden + delta
        assert delta is not None, "the tower has layers"
        hidden = hidden + delta
        # one projection for both, each behind a neck of its own
        last, first = self.neck(hidden), self.global_neck(first_global)
        if last.is_cuda:  # it is linear: adding before it halves it, and rounds otherwise
            features = self.projection(last + self.alpha * first)
        else:
            features = self.projection(last) + self.alpha * self.projection(first)
        output: Tensor = features.flatten(2).transpose(1, 2)
        return output


class SamLayer(nn.Module):
    """Attention (in windows, or over the whole grid) and MLP, each added to its input.

    The last addition is left to the norm behind it, which may be the next layer's: one pass over
    memory instead of two.

    Args:
        config: The tower's shape.
        window_size: Edge of a window in patches; None attends over the whole grid.
    """

    def __init__(self, config: SamConfig, window_size: int | None) -> None:
        super().__init__()
        D = config.hidden_size
        self.window_size = window_size
        self.attention_norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.attention = SamAttention(config, grid_size=window_size or config.grid_size)
        self.mlp_norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.mlp = SamMlp(config)

    def forward(self, hidden: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take and give two ``[N, G, G, D]`` that are to be added; None is nothing."""
        W = self.window_size
        hidden, normed = add_norm(self.attention_norm, hidden, delta, window_after=W)
        found = self.attention(normed)
        hidden, normed = add_norm(self.mlp_norm, hidden, found, window_before=W)
        return hidden, self.mlp(normed)


class SamAttention(nn.Module):
    """Attention over a square grid with decomposed relative positions."""

    def __init__(self, config: SamConfig, grid_size: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_heads
        self.qkv = Linear(D, 3 * D)
        self.out = Linear(D, D)
        # as many rows as there are distances: upstream's interpolation is then the identity
        table = (2 * grid_size - 1, D // config.num_heads)
        self.rel_pos_h = nn.Parameter(torch.empty(table))
        self.rel_pos_w = nn.Parameter(torch.empty(table))

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend within each of ``[N, G, G, D]``."""
        N, G, _, D = hidden.shape
        qkv = self.qkv(hidden).view(N, G * G, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, G * G, D / H) each
        found = attend_grid(q, k, v, self.rel_pos_h, self.rel_pos_w)
        output: Tensor = self.out(found.view(N, G, G, D))
        return output


class SamMlp(nn.Module):
    """Two projections with exact GELU between them."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down(F.gelu(self.up(hidden)))
        return output


class SamNeck(nn.Module):
    """Two convolutions, each followed by a norm over the channels: ``D`` to ``C`` channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        # 1e-6 is fixed upstream, independent of layer_norm_eps
        self.norm1 = nn.LayerNorm(out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.LayerNorm(out_channels, eps=1e-6)

    def forward(self, hidden: Tensor) -> Tensor:
        """Narrow ``[N, G, G, D]`` to ``[N, C, G, G]``."""
        features = self.conv1(hidden.permute(0, 3, 1, 2))
        features = self.norm1(features.permute(0, 2, 3, 1))
        features = self.conv2(features.permute(0, 3, 1, 2))
        features = self.norm2(features.permute(0, 2, 3, 1))
        output: Tensor = features.permute(0, 3, 1, 2)
        return output


class SamProjection(nn.Module):
    """Resize to four times SigLIP's grid, then halve twice: ``C`` to ``4 * C`` channels."""

    def __init__(self, channels: int, output_grid_size: int) -> None:
        super().__init__()
        self.resized = (4 * output_grid_size, 4 * output_grid_size)
        self.conv1 = self._halve(channels)
        self.conv2 = self._halve(2 * channels)

    @staticmethod
    def _halve(channels: int) -> nn.Conv2d:
        """Half the edge, twice the channels."""
        return nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Bring ``[N, C, G, G]`` to ``[N, 4 * C, g, g]``."""
        resized = F.interpolate(features, size=self.resized, mode="bilinear", align_corners=False)
        output: Tensor = self.conv2(self.conv1(resized))
        return output
