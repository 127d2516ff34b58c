"""From the towers' features to the language model's width.

Letters: ``N`` images, ``L`` image tokens, ``D`` width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsvl_pipeline.model.linear import Linear


class Aligner(nn.Module):
    """One tower: linear, GELU, linear."""

    def __init__(self, in_features: int, hidden_size: int) -> None:
        super().__init__()
        self.up = Linear(in_features, hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, low_res: Tensor) -> Tensor:
        """Map ``[N, L, in_features]`` to ``[N, L, D]``."""
        output: Tensor = self.out(F.gelu(self.up(low_res)))
        return output


class HybridAligner(nn.Module):
    """Two towers: each to half the width, side by side, GELU, linear."""

    def __init__(self, low_res_features: int, high_res_features: int, hidden_size: int) -> None:
        super().__init__()
        self.low_res = Linear(low_res_features, hidden_size // 2)
        self.high_res = Linear(high_res_features, hidden_size // 2)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, low_res: Tensor, high_res: Tensor) -> Tensor:
        """Map two ``[N, L, features]`` to ``[N, L, D]``."""
        # high before low: the order in which the last matrix was trained
        features = torch.cat((self.high_res(high_res), self.low_res(low_res)), dim=-1)
        output: Tensor = self.out(F.gelu(features))
        return output
