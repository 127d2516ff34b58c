"""The scores and the noise of a tile of tokens, as the sampling kernels read them.

Letters: ``V`` vocabulary.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


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
