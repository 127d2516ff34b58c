"""The language model over padded batches, with a cache of keys and values or without.

Letters: ``B`` sequences, ``T`` tokens of each in this call, ``K`` those of earlier calls as well,
``D`` width, ``H`` query heads, ``Hkv`` key and value heads, ``d`` width of a head.

Source of the behaviour: ``LlamaModel`` and its masks, transformers 5.23.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dsvl_pipeline.api.cache import DynamicCache
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.rotary import apply_rotary, rotary_tables


@dataclass(slots=True, kw_only=True, eq=False)
class DensePass:
    """What a call wants beside the last hidden states, and what it found.

    Attributes:
        cache: Of earlier tokens; those of this call are appended. None keeps nothing.
        wants_states: Whether to collect hidden states.
        wants_attentions: Whether to collect probabilities, which takes memory for all of them.
        checkpoints: Options of ``torch.utils.checkpoint``, to compute layers again for the
            gradients rather than to keep what is in them; None keeps it.
        states: ``[B, T, D]`` each: the embeddings, and behind every layer; the last normed.
        attentions: ``[B, H, T, K]`` of each layer.
    """

    cache: DynamicCache | None = None
    wants_states: bool = False
    wants_attentions: bool = False
    checkpoints: dict[str, Any] | None = None
    states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)


def run_dense(
    network: DeepseekVL,
    embeddings: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    wanted: DensePass,
) -> Tensor:
    """Run the language model.

    Args:
        network: Whose.
        embeddings: ``[B, T, D]``, image features in their places.
        attention_mask: ``[B, K]``, 0 at padding; or ``[B, 1, T, K]``, which is taken as it is:
            booleans say what is seen, numbers are added to scores. None masks nothing.
        position_ids: ``int[B, T]`` or ``int[T]``; by default counted from the cache's end. Where
            they jump and nothing else is given, another sequence begins, as upstream.
        wanted: What to keep and collect.

    Returns:
        ``[B, T, D]`` behind the final norm.
    """
    B, T, D = embeddings.shape
    past = 0 if wanted.cache is None else wanted.cache.get_seq_length()
    mask = _mask(embeddings, attention_mask, position_ids, wanted.cache, past)
    if position_ids is None:
        position_ids = torch.arange(past, past + T, device=embeddings.device)
    positions = position_ids.to(embeddings.device).expand(B, T).flatten()
    text = network.text
    cos, sin = rotary_tables(positions, text.frequencies)
    attend = _Attend(network=network, shape=(B, T), mask=mask, past=past, wanted=wanted)
    hidden: Tensor = embeddings.flatten(0, 1)
    delta: Tensor | None = None
    for index, layer in enumerate(text.layers):
        if wanted.wants_states:  # what is collected goes on: its gradients can be asked for
            wanted.states.append((hidden if delta is None else hidden + delta).view(B, T, D))
            hidden, delta = wanted.states[-1].flatten(0, 1), None
        arguments = (hidden, delta, cos, sin, attend, index, None)
        if wanted.checkpoints is not None:
            hidden, delta = checkpoint(layer, *arguments, **wanted.checkpoints)
        else:
            hidden, delta = layer(*arguments)
    output: Tensor = text.norm(hidden, delta)[1].view(B, T, D)
    if wanted.wants_states:
        wanted.states.append(output)
    return output


def _mask(
    embeddings: Tensor,
    given: Tensor | None,
    position_ids: Tensor | None,
    cache: DynamicCache | None,
    past: int,
) -> Tensor | None:
    """Return what each query sees, ``[B, 1, T, K]``; None where that is all before it."""
    T, device = embeddings.shape[1], embeddings.device
    if given is not None and given.ndim == 4:
        return given.to(device)
    num_keys = past + T
    if given is not None and cache is None:
        num_keys = given.shape[-1]
    causal = torch.ones(T, num_keys, dtype=torch.bool, device=device).tril(past)
    if given is not None:
        is_token = given.to(device).bool()[:, :num_keys]
        is_token = F.pad(is_token, (0, num_keys - is_token.shape[1]))
        if not is_token.all():
            return causal & is_token[:, None, None]
    elif position_ids is not None and cache is None:
        positions = position_ids.to(device).view(-1, T)
        jumps = positions.diff(prepend=positions[:, :1] - 1) != 1
        if jumps.any():
            sequence = jumps.cumsum(-1)
            return causal & (sequence[:, :, None] == sequence[:, None])[:, None]
    return None if num_keys == T or T == 1 else causal


@dataclass(slots=True, kw_only=True, eq=False)
class _Attend:
    """Rotates queries and keys, keeps keys and values, and attends."""

    network: DeepseekVL
    shape: tuple[int, int]
    mask: Tensor | None
    past: int
    wanted: DensePass

    def __call__(self, heads: Tensor, cos: Tensor, sin: Tensor, layer_index: int) -> Tensor:
        """Take ``[B * T, H + 2 * Hkv, d]`` and give ``[B * T, H, d]``."""
        H, Hkv = self.network.config.text.num_heads, self.network.config.text.num_kv_heads
        rotated = apply_rotary(heads[:, : H + Hkv], cos, sin)
        found = (rotated[:, :H], rotated[:, H:], heads[:, H + Hkv :])
        q, k, v = (one.view(*self.shape, *one.shape[1:]).transpose(1, 2) for one in found)
        if self.wanted.cache is not None:
            k, v = self.wanted.cache.update(k, v, layer_index)
        if Hkv != H:
            k, v = (one.repeat_interleave(H // Hkv, dim=1) for one in (k, v))
        scale = self.network.attention_scale
        if self.wanted.wants_attentions:
            output = self._attend_openly(q, k, v, scale)
        else:
            is_causal = self.mask is None and q.shape[2] > 1
            output = F.scaled_dot_product_attention(
                q, k, v, attn_mask=self.mask, is_causal=is_causal, scale=scale
            )
        return output.transpose(1, 2).flatten(0, 1)

    def _attend_openly(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attend as upstream's eager code does, and collect the probabilities."""
        T, K = q.shape[2], k.shape[2]
        scores = q @ k.transpose(2, 3) * scale
        mask = self.mask
        if mask is None:
            mask = torch.ones(T, K, dtype=torch.bool, device=q.device).tril(K - T)
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(
                ~mask, torch.finfo(q.dtype).min
            )
        chances = F.softmax(scores + mask, dim=-1, dtype=torch.float32).to(q.dtype)
        self.wanted.attentions.append(chances)
        return chances @ v


def next_token_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """Return the cross entropy of each token's successor, in float32.

    Args:
        logits: ``[B, T, V]``.
        labels: ``int[B, T]``: the ids themselves; ``ignore_index`` where nothing is learnt.
        num_items_in_batch: Divides the sum; by default the mean is taken.
        ignore_index: What labels leave out.
        shift_labels: Labels that are shifted already, instead.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    wanted = shift_labels.reshape(-1).to(logits.device)
    loss = F.cross_entropy(
        logits.float().flatten(0, -2),
        wanted,
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
    )
    if num_items_in_batch is None:
        return loss
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(loss.device)
    return loss / num_items_in_batch
