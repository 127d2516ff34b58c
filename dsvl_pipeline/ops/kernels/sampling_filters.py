"""Top-k, top-p and min-p of one row, without a sort: search the least key that is kept, then draw.

Letters: ``V`` vocabulary.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dsvl_pipeline.ops.kernels.sampling_scores import _gumbel, _load_raw, _penalise

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))
_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LOWEST: tl.constexpr = tl.constexpr(-(2**31))


@triton.jit
def _is_filtered(top_k, top_p, min_p, row):
    """Whether a row uses top-k, top-p or min-p."""
    is_cut = (tl.load(top_k + row) > 0) | (tl.load(top_p + row) < 1)
    return is_cut | (tl.load(min_p + row) > 0)


@triton.jit
def _order(scores):
    """Map float32 to int32 of the same order; both zeros become one."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _cut(
    logits,
    seen,
    allowed,
    row,
    V,
    logits_stride,
    num_tiles,
    penalty,
    highest,
    heat,
    least,
    target,
    IS_MASS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Find the highest key that is reached by so much of the row.

    Every pass asks of four keys how much lies at or above them, and which is the next key below.
    The last of the four is the highest candidate itself, so that a search ends as soon as one
    distinct value is left: about eight passes for 100,000 different scores.

    Args:
        least: Keys below are no part of the row any more.
        target: A number of tokens, or a share of what the tokens weigh together: ``exp(score /
            heat)`` each. More than the row has gives its lowest key.
    """
    scale = _LOG2_E / heat
    lanes = tl.arange(0, TILE)
    total = tl.zeros([TILE], tl.float32)
    lowest = tl.full([TILE], 0x7FFFFFFF, tl.int32)
    for tile in tl.range(0, num_tiles, num_stages=3):
        tokens = tile * TILE + lanes
        raw = _load_raw(logits, row, logits_stride, tokens, V)
        scores = _penalise(raw, seen, allowed, row, tokens, V, penalty)
        keys = _order(scores)
        total += _weigh(scores, keys, highest, scale, least, IS_MASS)
        lowest = tl.minimum(lowest, tl.where(keys >= least, keys, 0x7FFFFFFF))
    low, high = tl.min(lowest, 0), tl.max(_order(tl.zeros_like(total) + highest), 0)
    goal = tl.minimum(target, tl.sum(total, 0))
    if IS_MASS:
        goal = target * tl.sum(total, 0)

    while low < high:
        span = high.to(tl.int64) - low.to(tl.int64)
        key_1 = (low + (span + 3) // 4).to(tl.int32)
        key_2 = (low + (2 * span + 3) // 4).to(tl.int32)
        key_3 = (low + (3 * span + 3) // 4).to(tl.int32)
        reached_1 = tl.zeros([TILE], tl.float32)
        reached_2 = tl.zeros([TILE], tl.float32)
        reached_3 = tl.zeros([TILE], tl.float32)
        reached_4 = tl.zeros([TILE], tl.float32)
        below_1 = tl.full([TILE], _LOWEST, tl.int32)
        below_2 = tl.full([TILE], _LOWEST, tl.int32)
        below_3 = tl.full([TILE], _LOWEST, tl.int32)
        below_4 = tl.full([TILE], _LOWEST, tl.int32)
        for tile in tl.range(0, num_tiles, num_stages=3):
            tokens = tile * TILE + lanes
            raw = _load_raw(logits, row, logits_stride, tokens, V)
            scores = _penalise(raw, seen, allowed, row, tokens, V, penalty)
            keys = _order(scores)
            weights = _weigh(scores, keys, highest, scale, least, IS_MASS)
            reached_1 += tl.where(keys >= key_1, weights, 0.0)
            reached_2 += tl.where(keys >= key_2, weights, 0.0)
            reached_3 += tl.where(keys >= key_3, weights, 0.0)
            reached_4 += tl.where(keys >= high, weights, 0.0)
            below_1 = tl.maximum(below_1, tl.where(keys < key_1, keys, _LOWEST))
            below_2 = tl.maximum(below_2, tl.where(keys < key_2, keys, _LOWEST))
            below_3 = tl.maximum(below_3, tl.where(keys < key_3, keys, _LOWEST))
            below_4 = tl.maximum(below_4, tl.where(keys < high, keys, _LOWEST))
        if tl.sum(reached_4, 0) >= goal:
            low = high
        elif tl.sum(reached_3, 0) >= goal:
            low, high = key_3, tl.max(below_4, 0)
        elif tl.sum(reached_2, 0) >= goal:
            low, high = key_2, tl.max(below_3, 0)
        elif tl.sum(reached_1, 0) >= goal:
            low, high = key_1, tl.max(below_2, 0)
        else:
            high = tl.max(below_1, 0)
    return low


@triton.jit
def _weigh(scores, keys, highest, scale, least, IS_MASS: tl.constexpr):
    """Give each token its weight: one, or its probability as a multiple of the likeliest's."""
    weights = tl.zeros_like(scores) + 1.0
    if IS_MASS:
        weights = tl.exp2((scores - highest) * scale)
    return tl.where(keys >= least, weights, 0.0)


@triton.jit
def _draw(
    logits,
    seen,
    allowed,
    row,
    V,
    logits_stride,
    num_tiles,
    penalty,
    highest,
    heat,
    least,
    min_p,
    key,
    TILE: tl.constexpr,
):
    """Draw among the tokens whose keys reach ``least`` and whose probabilities reach min-p."""
    lanes = tl.arange(0, TILE)
    best = tl.full([TILE], -_INFINITY, tl.float32)
    chosen = tl.zeros([TILE], tl.int32) + (V - 1)
    for tile in tl.range(0, num_tiles, num_stages=3):
        tokens = tile * TILE + lanes
        raw = _load_raw(logits, row, logits_stride, tokens, V)
        scores = _penalise(raw, seen, allowed, row, tokens, V, penalty)
        is_kept = _order(scores) >= least
        is_kept = is_kept & (tl.exp2((scores - highest) * (_LOG2_E / heat)) >= min_p)
        if tl.max(is_kept.to(tl.int32), 0) > 0:  # few tiles hold any
            noisy = tl.div_rn(scores, tl.zeros_like(scores) + heat) + _gumbel(key, tokens)
            noisy = tl.where(is_kept, noisy, -_INFINITY)
            chosen = tl.where(noisy > best, tokens, chosen)
            best = tl.maximum(best, noisy)
    return tl.min(tl.where(best == tl.max(best, 0), chosen, V - 1), 0)
