"""The language model: LLaMA over packed tokens, without a batch dimension.

Letters: ``T`` tokens of all sequences one after another, ``D`` width, ``H`` query heads, ``Hkv``
key and value heads, ``d`` width of a head, ``I`` inner width of the MLP.

Source: ``LlamaModel``, transformers 5.23; Touvron et al. 2023, arXiv:2302.13971.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from dsvl_pipeline.model.config import LlamaConfig
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.ops.activation import gate_mul, silu_mul
from dsvl_pipeline.ops.norms import add_rms_norm, rms_norm
from dsvl_pipeline.ops.quantize import Quantized
from dsvl_pipeline.ops.rotary import rotary_frequencies, rotary_tables

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(heads ``[T, H + 2 * Hkv, d]``, cos and sin of their positions, layer index) -> ``[T, H, d]``.

Heads are queries, keys and values, not yet rotated; with pages or without.
"""

AttendRows = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(queries ``[B, H, d]`` of some rows, heads ``[T, 2 * Hkv, d]`` of all, cos, sin, layer index) ->
``[B, H, d]``. Cosine and sine belong to all rows; nothing is rotated yet.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LastLayer:
    """What the last layer computes when only some rows are wanted behind it.

    Attributes:
        rows: ``int64[B]``, which.
        attend: How their queries reach the keys of their sequences.
    """

    rows: Tensor
    attend: AttendRows


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

    def forward(
        self, hidden: Tensor, positions: Tensor, attend: Attend, last: LastLayer | None = None
    ) -> Tensor:
        """Run every layer and the final norm.

        Args:
            hidden: ``[T, D]`` embeddings.
            positions: ``int64[T]``, of each token in its sequence.
            attend: How queries reach the keys of their sequences.
            last: Which rows the last layer needs, B of them; None is all.

        Returns:
            ``[T, D]`` or ``[B, D]``.
        """
        cos, sin = rotary_tables(positions, self.frequencies)
        delta: Tensor | None = None
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            hidden, delta = layer(hidden, delta, cos, sin, attend, index, last if is_last else None)
        normed: Tensor = self.norm(hidden, delta)[1]
        return normed


class LlamaLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input.

    The last addition is left to the norm behind it, which may be the next layer's: one pass over
    memory instead of two.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = LlamaAttention(config)
        self.mlp_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMlp(config)

    def forward(
        self,
        hidden: Tensor,
        delta: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        attend: Attend,
        index: int,
        last: LastLayer | None,
    ) -> tuple[Tensor, Tensor]:
        """Take and give two ``[T, D]`` (given, ``[B, D]`` for rows alone) that are to be added."""
        is_quantized = self.attention.qkv.is_quantized
        hidden, normed = self.attention_norm(hidden, delta, quantize=is_quantized)
        if last is None:
            delta = self.attention(normed, cos, sin, attend, index)
        else:
            delta = self.attention.forward_rows(normed, cos, sin, last, index)
            hidden = hidden[last.rows]  # (B, D)
        hidden, normed = self.mlp_norm(hidden, delta, quantize=self.mlp.gate_up.is_quantized)
        return hidden, self.mlp(normed)


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        d = config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        parts = (config.num_heads * d, config.num_kv_heads * d, config.num_kv_heads * d)
        self.qkv = Linear(config.hidden_size, *parts, bias=False)
        self.out = Linear(config.num_heads * d, config.hidden_size, bias=False)

    def forward(
        self, normed: Tensor | Quantized, cos: Tensor, sin: Tensor, attend: Attend, index: int
    ) -> Tensor:
        heads = self.qkv(normed).unflatten(-1, (self.num_heads + 2 * self.num_kv_heads, -1))
        output: Tensor = self.out(attend(heads, cos, sin, index).flatten(1))
        return output

    def forward_rows(
        self, normed: Tensor | Quantized, cos: Tensor, sin: Tensor, last: LastLayer, index: int
    ) -> Tensor:
        """Attend for some rows to the keys and values of all: ``[B, D]``."""
        num_query_outputs = self.qkv.part_sizes[0]
        chosen = normed[last.rows] if isinstance(normed, Tensor) else normed.rows(last.rows)
        q = self.qkv(chosen, slice(num_query_outputs))
        kv = self.qkv(normed, slice(num_query_outputs, None))
        found = last.attend(
            q.unflatten(-1, (self.num_heads, -1)),
            kv.unflatten(-1, (2 * self.num_kv_heads, -1)),
            cos,
            sin,
            index,
        )
        output: Tensor = self.out(found.flatten(1))
        return output


class LlamaMlp(nn.Module):
    """SwiGLU (or another activation): a gated projection up, and one down."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        D, I = config.hidden_size, config.intermediate_size  # noqa: E741
        self.gate_up = Linear(D, I, I, bias=False)
        self.down = Linear(I, D, bias=False)
        self.activation = config.activation

    def forward(self, normed: Tensor | Quantized) -> Tensor:
        gate_up = self.gate_up(normed)
        if self.activation == "silu":
            inner: Tensor | Quantized = silu_mul(gate_up, quantize=self.down.is_quantized)
        else:
            inner = gate_mul(gate_up, self.activation)
        output: Tensor = self.down(inner)
        return output


class RmsNorm(nn.Module):
    """`add_rms_norm` with its weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.eps = eps

    def forward(
        self, hidden: Tensor, delta: Tensor | None, *, quantize: bool = False
    ) -> tuple[Tensor, Tensor | Quantized]:
        """Give ``hidden + delta`` (None adds nothing) and its norm."""
        if delta is None:
            return hidden, rms_norm(hidden, self.weight, self.eps, quantize=quantize)
        return add_rms_norm(hidden, delta, self.weight, self.eps, quantize=quantize)
