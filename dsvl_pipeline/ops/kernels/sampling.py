"""Choose tokens on a GPU: no sort, no wait for the device, any settings beside any others.

Letters: ``B`` rows, ``V`` vocabulary.

`_tile_kernel` reads every logit once and finds each tile's best token. That is all of the work for
greedy rows and for rows that are sampled without filters, where the noise is added on the way.
`_row_kernel` compares the tiles. Only for a row with top-k, top-p or min-p it reads the logits
again, several times, and then finds them in the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsvl_pipeline.ops.values import SamplingTensors

# Sums depend on how they are split: tiles and warps must not follow the number of rows, or a row
# alone could be cut elsewhere than in a batch.
_TILE = 4096
_TILE_WARPS = 8
_ROW_WARPS = 16

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))
_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LOWEST: tl.constexpr = tl.constexpr(-(2**31))
_KEY_OF_MINUS_INFINITY: tl.constexpr = tl.constexpr(-2139095041)


def sample_rows(
    logits: Tensor, params: SamplingTensors, *, wants_logprobs: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the next token of each row, and its log softmax of the raw logits if wanted.

    Choices are those of the torch reference up to the rounding of logarithms, exponentials and
    sums; greedy ones are the same. A row with a NaN gets some token of the vocabulary.

    Args:
        logits: ``[B, V]`` in any floating dtype.
        params: As `ops.sampling.sample` takes them.
        wants_logprobs: Whether to return the second tensor.

    Returns:
        ``int64[B]`` and ``float32[B]`` or None.
    """
    num_rows, num_tokens = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    num_tiles = triton.cdiv(num_tokens, _TILE)
    device = logits.device
    scores = torch.empty(num_rows, num_tiles, dtype=torch.float32, device=device)
    tokens = torch.empty(num_rows, num_tiles, dtype=torch.int32, device=device)
    ids = torch.empty(num_rows, dtype=torch.int64, device=device)
    shape = (num_rows, num_tiles) if wants_logprobs else (0, 0)
    raw_tops, raw_sums = torch.empty(2, *shape, dtype=torch.float32, device=device)
    logprobs = torch.empty(shape[0], dtype=torch.float32, device=device)
    if num_rows == 0:
        return ids, logprobs if wants_logprobs else None
    # None of a pointer makes a variant without it, so what is off costs nothing.
    seen = None if params.seen is None else params.seen.contiguous().view(torch.uint8)
    allowed = None if params.allowed is None else params.allowed.contiguous()
    settings = tuple(
        setting.contiguous()
        for setting in (
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.seed,
            params.position,
        )
    )
    found = (scores, tokens, raw_tops, raw_sums)
    _tile_kernel[(num_rows, num_tiles)](
        logits,
        seen,
        allowed,
        *settings,
        *found,
        num_tokens,
        logits.stride(0),
        TILE=_TILE,
        IS_SAMPLED=params.is_sampled,
        IS_FILTERED=params.is_filtered,
        WANTS_LOGPROBS=wants_logprobs,
        num_warps=_TILE_WARPS,
    )
    is_filtered = params.is_sampled and params.is_filtered
    _row_kernel[(num_rows,)](
        logits,
        seen,
        allowed,
        *settings,
        *found,
        ids,
        logprobs,
        num_tokens,
        logits.stride(0),
        num_tiles,
        TILE=_TILE,
        TILES=triton.next_power_of_2(num_tiles),
        IS_FILTERED=is_filtered,
        WANTS_LOGPROBS=wants_logprobs,
        num_warps=_ROW_WARPS if is_filtered else 1,
    )
    return ids, logprobs if wants_logprobs else None


@triton.jit
def _tile_kernel(
    logits,
    seen,
    allowed,
    temperature,
    top_k,
    top_p,
    min_p,
    repetition_penalty,
    seed,
    position,
    tile_scores,
    tile_tokens,
    raw_tops,
    raw_sums,
    V,
    logits_stride,
    TILE: tl.constexpr,
    IS_SAMPLED: tl.constexpr,
    IS_FILTERED: tl.constexpr,
    WANTS_LOGPROBS: tl.constexpr,
):
    """Find the best score of a tile and the lowest token that has it.

    For rows that `_row_kernel` filters this is the highest score without noise.
    """
    # Rows first: a grid has room for 2**31 of them there, and for 65,535 in its second dimension.
    row, place = tl.program_id(0), tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tokens = tl.program_id(1) * TILE + tl.arange(0, TILE)
    raw = _load_raw(logits, row, logits_stride, tokens, V)
    if WANTS_LOGPROBS:
        top = tl.max(raw, 0)
        shift = tl.where(top == -_INFINITY, 0.0, top)
        tl.store(raw_tops + place, top)
        tl.store(raw_sums + place, tl.sum(tl.exp(raw - shift), 0))
    penalty = tl.load(repetition_penalty + row)
    scores = _penalise(raw, seen, allowed, row, tokens, V, penalty)
    if IS_SAMPLED:
        heat = tl.load(temperature + row)
        wants_noise = heat > 0
        if IS_FILTERED:
            wants_noise = wants_noise & (not _is_filtered(top_k, top_p, min_p, row))
        if wants_noise:
            noise = _gumbel(_row_key(seed, position, row), tokens)
            scores = tl.div_rn(scores, tl.zeros_like(scores) + heat) + noise
    best = tl.max(scores, 0)
    tl.store(tile_scores + place, best)
    tl.store(tile_tokens + place, tl.min(tl.where(scores == best, tokens, V - 1), 0))


@triton.jit
def _row_kernel(
    logits,
    seen,
    allowed,
    temperature,
    top_k,
    top_p,
    min_p,
    repetition_penalty,
    seed,
    position,
    tile_scores,
    tile_tokens,
    raw_tops,
    raw_sums,
    ids,
    logprobs,
    V,
    logits_stride,
    num_tiles,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    IS_FILTERED: tl.constexpr,
    WANTS_LOGPROBS: tl.constexpr,
):
    """Compare a row's tiles; draw where the row is filtered."""
    row = tl.program_id(0)
    tiles = tl.arange(0, TILES)
    places, is_tile = row * num_tiles + tiles, tiles < num_tiles
    scores = tl.load(tile_scores + places, mask=is_tile, other=-_INFINITY)
    tokens = tl.load(tile_tokens + places, mask=is_tile, other=V - 1)
    best = tl.max(scores, 0)
    token = tl.min(tl.where(scores == best, tokens, V - 1), 0)
    if IS_FILTERED:
        heat = tl.load(temperature + row)
        is_drawn = (heat > 0) & _is_filtered(top_k, top_p, min_p, row) & (best > -_INFINITY)
        if is_drawn:
            penalty = tl.load(repetition_penalty + row)
            k = tl.load(top_k + row)
            p = tl.load(top_p + row).to(tl.float32)
            least = tl.full((), _KEY_OF_MINUS_INFINITY + 1, tl.int32)  # -inf is never drawn
            if k > 0:
                least = _cut(
                    logits, seen, allowed, row, V, logits_stride, num_tiles, penalty, best, heat,
                    least, k.to(tl.float32), IS_MASS=False, TILE=TILE,
                )  # fmt: skip
            if p < 1:
                least = _cut(
                    logits, seen, allowed, row, V, logits_stride, num_tiles, penalty, best, heat,
                    least, p, IS_MASS=True, TILE=TILE,
                )  # fmt: skip
            token = _draw(
                logits, seen, allowed, row, V, logits_stride, num_tiles, penalty, best, heat,
                least, tl.load(min_p + row), _row_key(seed, position, row), TILE=TILE,
            )  # fmt: skip
    tl.store(ids + row, token.to(tl.int64))
    if WANTS_LOGPROBS:
        tops = tl.load(raw_tops + places, mask=is_tile, other=-_INFINITY)
        sums = tl.load(raw_sums + places, mask=is_tile, other=0.0)
        top = tl.max(tops, 0)
        shift = tl.where(top == -_INFINITY, 0.0, top)
        total = tl.sum(sums * tl.exp(tops - shift), 0)
        chosen = tl.load(logits + row.to(tl.int64) * logits_stride + token).to(tl.float32)
        tl.store(logprobs + row, chosen - shift - tl.log(total))


@triton.jit
def _is_filtered(top_k, top_p, min_p, row):
    """Whether a row uses top-k, top-p or min-p."""
    is_cut = (tl.load(top_k + row) > 0) | (tl.load(top_p + row) < 1)
    return is_cut | (tl.load(min_p + row) > 0)


@triton.jit
def _load_raw(logits, row, logits_stride, tokens, V):
    """Load a tile of logits as float32; beyond the vocabulary they are ``-inf``."""
    places = row.to(tl.int64) * logits_stride + tokens
    return tl.load(logits + places, mask=tokens < V, other=-_INFINITY).to(tl.float32)


@triton.jit
def _penalise(raw, seen, allowed, row, tokens, V, penalty):
    """Forbid and penalise, as `forbid` and `penalise` of the reference do."""
    scores = raw
    if allowed is not None:
        places = row.to(tl.int64) * tl.cdiv(V, 32) + tokens // 32
        words = tl.load(allowed + places, mask=tokens < V, other=0)
        scores = tl.where(((words >> (tokens % 32)) & 1) == 1, scores, -_INFINITY)
    if seen is not None:  # noqa: SIM102 -- decided when compiling
        if penalty != 1:
            is_seen = tl.load(seen + row.to(tl.int64) * V + tokens, mask=tokens < V, other=0)
            divided = tl.div_rn(scores, tl.zeros_like(scores) + penalty)
            penalised = tl.where(scores < 0, scores * penalty, divided)
            scores = tl.where(is_seen != 0, penalised, scores)
    return scores


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


@triton.jit
def _row_key(seed, position, row):
    """Hash a row's seed and position, as the reference does."""
    key = _mix(tl.load(seed + row).to(tl.uint64, bitcast=True))
    return _mix(key + tl.load(position + row).to(tl.uint64, bitcast=True))


@triton.jit
def _mix(x):
    """Scramble 64 bits: splitmix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _gumbel(key, tokens):
    """Return ``-log(-log(u))`` for the reference's 52-bit ``u`` of each token, in float32.

    The largest of 100,000 draws comes from a ``u`` within 1e-5 of one, where float32 has 170 values
    left and none beyond noise of 16.6. So the distance to the nearer end, which float32 holds
    to 24 bits wherever it is, is taken from the integer; near one the inner logarithm is the
    series of ``2 atanh(w / (2 - w))``. What remains is an error of about 1e-6 in the noise, thus
    in the logarithm of a probability.
    """
    counters = (tokens + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    bits = (_mix(key + counters) >> 12).to(tl.int64)
    is_low = bits < (1 << 51)
    nearer = tl.where(is_low, bits, (1 << 52) - 1 - bits)
    w = (nearer.to(tl.float32) + 0.5) * 2.220446049250313e-16  # 2 ** -52
    s = w / (2.0 - w)  # at most 1/3
    q = s * s
    series = 1.0 / 13 + q * (1.0 / 15)
    series = 1.0 / 11 + q * series
    series = 1.0 / 9 + q * series
    series = 1.0 / 7 + q * series
    series = 1.0 / 5 + q * series
    series = 1.0 / 3 + q * series
    series = 1.0 + q * series
    return -tl.log(tl.where(is_low, -tl.log(w), 2.0 * s * series))
