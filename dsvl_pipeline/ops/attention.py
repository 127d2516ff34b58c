"""Causal attention over packed sequences, with and without KV pages.

Tokens of all sequences lie one after another, without padding. Letters: ``T`` tokens of the step,
``S`` sequences, ``P`` pages a sequence may own, ``H`` query heads, ``Hkv`` key and value heads,
``D`` width of a head.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from dsvl_pipeline.ops.backend import use_triton
from dsvl_pipeline.ops.rotary import apply_rotary
from dsvl_pipeline.ops.values import KVPages, PackedInputs


def rotate_and_store(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv: KVPages,
    layer_index: int,
    packed: PackedInputs,
    num_heads: int,
) -> Tensor:
    """Rotate queries and keys by their positions, and put keys and values into their pages.

    Args:
        heads: ``[T, H + 2 * Hkv, D]``: queries, keys and values of each token.
        cos: ``float32[T, D / 2]`` from `rotary_tables`.
        sin: ``float32[T, D / 2]``.
        kv: Pages; the slots of this step are overwritten in layer ``layer_index``, cast to the
            pages' dtype without scales. In float8_e4m3fn what lies outside +-448 becomes +-448.
        layer_index: Whose pages.
        packed: Where the tokens belong.
        num_heads: ``H``.

    Returns:
        ``[T, H, D]``: the rotated queries.
    """
    num_kv_heads = kv.k.shape[2]
    if use_triton(heads) and _is_power_of_two(heads.shape[2]):
        from dsvl_pipeline.ops.kernels import rotary as kernels

        k, v = kv.k[layer_index], kv.v[layer_index]
        return kernels.rotate_and_store(heads, cos, sin, k, v, packed.slots, num_heads)
    # queries and keys lie side by side, so one call rotates both
    rotated = apply_rotary(heads[:, : num_heads + num_kv_heads], cos, sin)
    pages, offsets = packed.slots // kv.page_size, packed.slots % kv.page_size
    _store(kv.k[layer_index], pages, offsets, rotated[:, num_heads:])
    _store(kv.v[layer_index], pages, offsets, heads[:, num_heads + num_kv_heads :])
    return rotated[:, :num_heads]


def _store(stored: Tensor, pages: Tensor, offsets: Tensor, new: Tensor) -> None:
    """Put ``[T, Hkv, D]`` into pages ``[num_pages, Hkv, page_size, D]``."""
    if stored.dtype != torch.float8_e4m3fn:
        stored[pages, :, offsets] = new.to(stored.dtype)
        return
    limit = torch.finfo(stored.dtype).max  # beyond it torch's cast makes NaN
    cast = new.clamp(-limit, limit).to(stored.dtype)
    stored.view(torch.uint8)[pages, :, offsets] = cast.view(torch.uint8)  # no float8 assignment


def attend_paged(
    q: Tensor, kv: KVPages, layer_index: int, packed: PackedInputs, scale: float
) -> Tensor:
    """Let each query attend to its sequence so far, as `rotate_and_store` has put it into pages.

    A sequence's last query stands at position ``kv_len - 1``; each query sees the keys up to and
    including its own. Sequences never influence each other's result, not even in the last bit.
    A sequence without tokens (``kv_len`` 0: a free row of a fixed batch) gives zeros.

    Args:
        q: ``[T, H, D]``, rotated.
        kv: Pages that hold the step's own keys and values as well.
        layer_index: Whose pages.
        packed: Where the tokens belong.
        scale: Factor of the scores.

    Returns:
        ``[T, H, D]``.
    """
    k_pages, v_pages = kv.k[layer_index], kv.v[layer_index]
    if use_triton(q) and _is_power_of_two(q.shape[2]) and _is_power_of_two(kv.page_size):
        from dsvl_pipeline.ops.kernels.decode_attention import MOST_DECODE_ROWS, decode
        from dsvl_pipeline.ops.kernels.prefill_attention import prefill

        where = (packed.query_starts, packed.page_table, packed.kv_lens, packed.max_query_len)
        num_rows = packed.max_query_len * (q.shape[1] // k_pages.shape[1])
        if num_rows > MOST_DECODE_ROWS:
            return prefill(q, k_pages, v_pages, *where, scale)
        shared = packed.shared
        if shared and num_rows * shared.max_group_size > MOST_DECODE_ROWS:
            shared = None
        return decode(q, k_pages, v_pages, *where, scale, shared=shared)
    out = torch.zeros_like(q)
    bounds = pairwise(packed.query_starts.tolist())
    lengths, tables = packed.kv_lens.tolist(), packed.page_table.tolist()
    for (start, end), kv_len, table in zip(bounds, lengths, tables, strict=True):
        if kv_len and start < end:
            keys, values = (_gather(pages, table, kv_len, q.dtype) for pages in (k_pages, v_pages))
            out[start:end] = _attend_one(q[start:end], keys, values, scale)
    return out


def _is_power_of_two(size: int) -> bool:
    """Say whether kernels take this size: a power of two of at least one matrix unit's 16."""
    return size >= 16 and size.bit_count() == 1


def _gather(pages: Tensor, table: list[int], kv_len: int, dtype: torch.dtype) -> Tensor:
    """Copy one sequence's pages together: ``dtype[Hkv, kv_len, D]``."""
    page_size = pages.shape[2]
    num_full, rest = divmod(kv_len, page_size)
    found = [pages[page].to(dtype) for page in table[:num_full]]
    if rest:
        found.append(pages[table[num_full], :, :rest].to(dtype))
    return torch.cat(found, dim=1)  # one copy; indexing and then transposing would be two


def attend_packed(q: Tensor, k: Tensor, v: Tensor, query_starts: Tensor, scale: float) -> Tensor:
    """Let each query attend to the tokens of its sequence up to and including its own.

    Args:
        q: ``[T, H, D]``, rotated.
        k: ``[T, Hkv, D]``, rotated.
        v: ``[T, Hkv, D]``.
        query_starts: ``int32[S + 1]``, the first token of each sequence, and ``T``.
        scale: Factor of the scores.

    Returns:
        ``[T, H, D]``.
    """
    if use_triton(q, k, v) and _is_power_of_two(q.shape[2]):
        from dsvl_pipeline.ops.kernels.prefill_attention import prefill

        # how long the longest is only the device knows; all tokens are at least as many
        most = q.shape[0]
        v = v if v.stride() == k.stride() else v.contiguous()
        k = k if v.stride() == k.stride() else k.contiguous()
        return prefill(q, k, v, query_starts, None, None, most, scale)
    out = torch.empty_like(q)
    starts = query_starts.tolist()
    for start, end in pairwise(starts):
        keys, values = k[start:end].transpose(0, 1), v[start:end].transpose(0, 1)
        out[start:end] = _attend_one(q[start:end], keys, values, scale)
    return out


def _attend_one(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend within one sequence: its newest ``q_len`` tokens to all ``kv_len``.

    Args:
        q: ``[q_len, H, D]``.
        keys: ``[Hkv, kv_len, D]``.
        values: ``[Hkv, kv_len, D]``.
        scale: Factor of the scores.

    Returns:
        ``[q_len, H, D]``.
    """
    q_len, num_heads, _ = q.shape
    num_kv_heads, kv_len, _ = keys.shape
    if q_len == 1:  # the heads of a group become rows, so that keys need no repetition
        rows = q.reshape(1, num_kv_heads, num_heads // num_kv_heads, -1)
        found = F.scaled_dot_product_attention(rows, keys[None], values[None], scale=scale)
        return found.view(1, num_heads, -1)
    if num_kv_heads != num_heads:
        keys = keys.repeat_interleave(num_heads // num_kv_heads, dim=0)
        values = values.repeat_interleave(num_heads // num_kv_heads, dim=0)
    mask = None
    if q_len != kv_len:  # the causal flag aligns first tokens, a chunk's last ones must align
        mask = torch.ones(q_len, kv_len, dtype=torch.bool, device=q.device).tril(kv_len - q_len)
    found = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
    )
    return found[0].transpose(0, 1)
