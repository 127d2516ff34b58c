"""The language model: LLaMA over packed tokens, without a batch dimension.

Letters: ``T`` tokens of all sequences one after another, ``D`` width, ``H`` query heads, ``Hkv``
key and value heads, ``d`` width of a head, ``I`` inner width of the MLP.

Source: ``LlamaModel``, transformers 5.23; Touvron et al. 2023, arXiv:2302.13971.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dsvl_pipeline.model.config import LlamaConfig
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.ops.activation import silu_mul
from dsvl_pipeline.ops.norms import rms_norm
from dsvl_pipeline.ops.rotary import rotary_frequencies, rotary_tables

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(heads ``[T, H + 2 * Hkv, d]``, cos and sin of their positions, layer index) -> ``[T, H, d]``.

Heads are queries, keys and values, not yet rotated; with pages or without.
"""


class Llama(nn.Module):
    """Embeddings, layers and final norm; the head lies outside."""

    frequencies: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        frequencies = rotary_frequencies(config.head_dim, config.rope_theta)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the weights; frequencies are moved alone.

        Rounded to 16 bits they would turn late positions by visible angles.
        """
        frequencies = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = frequencies.to(self.frequencies.device)
        return self

    def forward(self, hidden: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run every layer and the final norm.

        Args:
            hidden: ``[T, D]`` embeddings.
            positions: ``int64[T]``, of each token in its sequence.
            attend: How queries reach the keys of their sequences.

        Returns:
            ``[T, D]``.
        """
        cos, sin = rotary_tables(positions, self.frequencies)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, cos, sin, attend, index)
        normed: Tensor = self.norm(hidden)
        return normed


class LlamaLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = LlamaAttention(config)
        self.mlp_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMlp(config)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend, index: int
    ) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cos, sin, attend, index)
        output: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return output


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        d = config.head_dim
        self.num_parts = config.num_heads + 2 * config.num_kv_heads
        parts = (config.num_heads * d, config.num_kv_heads * d, config.num_kv_heads * d)
        self.qkv = Linear(config.hidden_size, *parts, bias=False)
        self.out = Linear(config.num_heads * d, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend, index: int
    ) -> Tensor:
        heads = self.qkv(hidden).view(hidden.shape[0], self.num_parts, -1)  # (T, H + 2 * Hkv, d)
        found = attend(heads, cos, sin, index)
        output: Tensor = self.out(found.flatten(1))
        return output


class LlamaMlp(nn.Module):
    """SwiGLU: a gated projection up, and one down."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        D, I = config.hidden_size, config.intermediate_size  # noqa: E741
        self.gate_up = Linear(D, I, I, bias=False)
        self.down = Linear(I, D, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down(silu_mul(self.gate_up(hidden)))
        return output


class RmsNorm(nn.Module):
    """`rms_norm` with its weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.eps)
