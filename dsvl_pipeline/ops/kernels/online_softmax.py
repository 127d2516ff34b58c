"""The parts of a causal attention kernel: find keys, take them into a running softmax, write.

Only the kernels of decode and prefill call them. Scores are in base 2, see `attention_tiles`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _find_keys(
    table, first, newest, stride_page, stride_slot, PAGE: tl.constexpr, KEYS: tl.constexpr
):
    """Give the offsets of ``KEYS`` keys from ``first`` on; behind the newest comes itself again.

    Reading one key several times needs no mask and costs nothing, and what else lies in its page,
    a NaN perhaps, stays out: a weight of 0 would not silence that.
    """
    key = tl.minimum(first + tl.arange(0, KEYS), newest)
    if PAGE == 0:
        at = key.to(tl.int64) * stride_slot
    elif KEYS <= PAGE:  # all in one page
        page = tl.load(table + first // PAGE).to(tl.int64)
        at = page * stride_page + (key % PAGE) * stride_slot
    else:
        pages = tl.load(table + key // PAGE).to(tl.int64)
        at = pages * stride_page + (key % PAGE) * stride_slot
    return at


@triton.jit
def _add_keys(
    queries, highest, total, acc, k, v, rows, first, num_visible, scale, MASKED: tl.constexpr
):
    """Take some more keys and values into the running softmax.

    Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1.
    """
    D: tl.constexpr = acc.shape[1]
    offsets = rows[:, None] + tl.arange(0, D)[None, :]
    keys = tl.load(k + offsets).to(queries.dtype)
    values = tl.load(v + offsets).to(queries.dtype)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    weights, decay, highest, total = _weigh(
        scores, highest, total, first, num_visible, scale, MASKED
    )
    acc = tl.dot(weights.to(queries.dtype), values, acc * decay[:, None], input_precision="ieee")
    return highest, total, acc


@triton.jit
def _weigh(scores, highest, total, first, num_visible, scale, MASKED: tl.constexpr):
    """Give the weights of some more keys, and the factor for all that was summed up before them."""
    if MASKED:
        key = first + tl.arange(0, scores.shape[1])
        scores = tl.where(key[None, :] < num_visible[:, None], scores, -float("inf"))
    # the first tile has a key for every row, so that nothing here is -inf - -inf
    new_highest = tl.maximum(highest, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new_highest[:, None])
    decay = tl.exp2(highest - new_highest)
    return weights, decay, new_highest, total * decay + tl.sum(weights, 1)


@triton.jit
def _narrow(queries, COMPUTE: tl.constexpr):
    """Cast queries to the products' dtype; float16's range ends early."""
    if tl.float16 == COMPUTE:
        queries = tl.clamp(queries.to(tl.float32), -65504.0, 65504.0)
    return queries.to(COMPUTE)


@triton.jit
def _write(out, at, acc, total, is_live):
    """Store the weighted sums; where there was no key, zeros."""
    D: tl.constexpr = acc.shape[1]
    found = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    offsets = at[:, None] + tl.arange(0, D)[None, :]
    tl.store(out + offsets, found.to(out.dtype.element_ty), mask=is_live[:, None])
