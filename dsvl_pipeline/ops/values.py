"""What operators and kernels are given: values that a step's sequences share.

Letters: ``T`` tokens of the step, ``S`` sequences, ``P`` pages a sequence may own, ``Hkv`` key and
value heads, ``D`` width of a head; of sampling ``B`` sequences, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedPages:
    """Which sequences of a decode step begin with the same pages: these are then read once.

    Letters: ``G`` groups; a sequence that shares nothing is a group of its own.

    Attributes:
        group_starts: ``int32[G + 1]``, the first sequence of each group, and ``S``: sequences of
            a group follow one another. A group may be empty.
        shared_lens: ``int32[G]``, tokens in the pages that a group has in common: whole pages,
            before any query of the step; 0 in a group of one, more than 0 in larger ones.
        max_group_size: Most sequences of one group.
    """

    group_starts: Tensor
    shared_lens: Tensor
    max_group_size: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedInputs:
    """Where the tokens of one step belong. All tensors on the device of the model.

    Attributes:
        positions: ``int64[T]``, of each token in its sequence.
        slots: ``int64[T]``, where its key and value go: ``page * page_size + offset``.
        query_starts: ``int32[S + 1]``, the first token of each sequence, and ``T``.
        page_table: ``int32[S, P]``, each sequence's pages in position order; the rest is any
            valid page.
        kv_lens: ``int32[S]``, tokens each sequence holds after this step.
        max_query_len: Most tokens of one sequence in this step.
        max_kv_len: Most tokens that a sequence holds after this step.
        shared: Pages in common, if known. Without, the result is the same but for rounding.
    """

    positions: Tensor
    slots: Tensor
    query_starts: Tensor
    page_table: Tensor
    kv_lens: Tensor
    max_query_len: int
    max_kv_len: int
    shared: SharedPages | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KVPages:
    """Keys and values of every sequence, in pages of equal size.

    Attributes:
        k: ``[num_layers, num_pages, Hkv, page_size, D]``, in the model's dtype or in
            float8_e4m3fn; written in place by `rotate_and_store`.
        v: The same for values.
        page_size: Tokens in one page.
    """

    k: Tensor
    v: Tensor
    page_size: int

    @classmethod
    def allocate(
        cls,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> KVPages:
        """Make empty pages; zeros, because a padded read of unset memory could be a NaN."""
        shape = (num_layers, num_pages, num_kv_heads, page_size, head_dim)
        k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
        return cls(k=k, v=v, page_size=page_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingTensors:
    """The settings of a step's sequences, on the device.

    The two flags are known on the host: reading them off the tensors would wait for the device.

    Attributes:
        temperature: ``float32[B]``; 0 is greedy.
        top_k: ``int64[B]``; 0 is off.
        top_p: ``float64[B]``; 1 is off.
        min_p: ``float32[B]``; 0 is off.
        repetition_penalty: ``float32[B]``; 1 is off.
        seed: ``int64[B]``.
        position: ``int64[B]`` place of the new token in prompt plus completion.
        seen: ``bool[B, V]`` tokens of prompt and completion; None where no row has a penalty.
        is_sampled: Whether any row has a temperature above 0.
        is_filtered: Whether any row uses top-k, top-p or min-p.
        allowed: ``int32[B, ceil(V / 32)]``; token ``t`` may only be chosen where bit ``t % 32`` of
            word ``t // 32`` is 1. None where every row may choose any token.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    seed: Tensor
    position: Tensor
    seen: Tensor | None
    is_sampled: bool
    is_filtered: bool
    allowed: Tensor | None = None
