"""Choose the next token of many sequences at once, each by its own settings.

Letters: ``B`` sequences of a step, ``V`` vocabulary.

The order is that of transformers: allowed tokens (a grammar's processor comes first there),
repetition penalty, temperature, top-k, top-p, min-p. Every operation works row by row, so a row's
token does not depend on the rows beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsvl_pipeline.ops.backend import use_triton
from dsvl_pipeline.ops.values import SamplingTensors

_GOLDEN = 0x9E3779B97F4A7C15
_NOISE_BITS = 52


def sample(logits: Tensor, params: SamplingTensors) -> Tensor:
    """Return the next token of each row, ``int64[B]``.

    A sampled token is the argmax of filtered logits plus Gumbel noise, which draws from their
    softmax exactly. Unlike a walk along cumulated probabilities, a rounding difference in the
    logits then only matters where two candidates nearly tie. Of tokens that tie the lowest id is
    chosen, as ``torch.argmax`` does.

    Args:
        logits: ``[B, V]`` as the model gives them.
        params: One entry per row.
    """
    if use_triton(logits):
        return _sample_rows(logits, params, wants_logprobs=False)[0]
    return choose(logits, params)


def sample_with_logprobs(logits: Tensor, params: SamplingTensors) -> tuple[Tensor, Tensor]:
    """Return what `sample` does, and `token_logprobs` of it: ``int64[B]``, ``float32[B]``."""
    if use_triton(logits):
        token_ids, logprobs = _sample_rows(logits, params, wants_logprobs=True)
        assert logprobs is not None
        return token_ids, logprobs
    token_ids = choose(logits, params)
    return token_ids, token_logprobs(logits, token_ids)


def _sample_rows(
    logits: Tensor, params: SamplingTensors, *, wants_logprobs: bool
) -> tuple[Tensor, Tensor | None]:
    from dsvl_pipeline.ops.kernels.sampling import sample_rows

    return sample_rows(logits, params, wants_logprobs=wants_logprobs)


def choose(logits: Tensor, params: SamplingTensors) -> Tensor:
    """Return what `sample` does; the reference, with a sort where rows are filtered."""
    scores = penalise(forbid(logits.float(), params), params)
    if not params.is_sampled:
        return scores.argmax(-1)
    noisy = filter_scores(scores, params) + gumbel_noise(params, scores.shape[-1])
    is_greedy = (params.temperature == 0)[:, None]
    return torch.where(is_greedy, scores.double(), noisy).argmax(-1)


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return the log softmax of raw logits at each row's token, ``float32[B]``."""
    return logits.float().log_softmax(-1).gather(-1, token_ids[:, None])[:, 0]


def forbid(scores: Tensor, params: SamplingTensors) -> Tensor:
    """Give tokens that a row may not choose the score ``-inf``, ``float32[B, V]``."""
    if params.allowed is None:
        return scores
    bits = torch.arange(32, dtype=torch.int32, device=scores.device)
    is_allowed = (params.allowed[:, :, None] >> bits) & 1 == 1  # (B, ceil(V / 32), 32)
    return scores.masked_fill(~is_allowed.flatten(1)[:, : scores.shape[-1]], -torch.inf)


def penalise(scores: Tensor, params: SamplingTensors) -> Tensor:
    """Make tokens that a row has seen less likely, ``float32[B, V]``."""
    if params.seen is None:
        return scores
    penalty = params.repetition_penalty[:, None]
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(params.seen, penalised, scores)


def filter_scores(scores: Tensor, params: SamplingTensors) -> Tensor:
    """Apply temperature, then top-k, top-p and min-p; dropped tokens become ``-inf``.

    Tokens that tie with the least likely one kept are kept as well, so that the result does not
    depend on how a sort orders them.
    """
    temperature = torch.where(params.temperature == 0, 1.0, params.temperature)
    scores = scores / temperature[:, None]
    if not params.is_filtered:
        return scores
    ascending = scores.sort(-1).values

    num_tokens = scores.shape[-1]
    top_k = torch.where(params.top_k == 0, num_tokens, params.top_k.clamp(max=num_tokens))
    least = ascending.gather(-1, (num_tokens - top_k)[:, None])  # (B, 1)
    ascending = ascending.masked_fill(ascending < least, -torch.inf)

    # Summed from the unlikely end and compared in float32, as upstream does: rounded alike, the
    # two cut alike. 1 - top_p itself is a float64 there.
    unlikely = ascending.softmax(-1).cumsum(-1) <= (1 - params.top_p).float()[:, None]
    unlikely[:, -1] = False
    first_kept = (~unlikely).long().argmax(-1, keepdim=True)
    nucleus = ascending.gather(-1, first_kept)  # (B, 1)
    # At top-p 1 nothing may go, not even what the softmax has rounded to zero.
    least = torch.where(params.top_p[:, None] < 1, torch.maximum(least, nucleus), least)
    scores = scores.masked_fill(scores < least, -torch.inf)

    probabilities = scores.softmax(-1)
    floor = params.min_p[:, None] * probabilities.amax(-1, keepdim=True)
    return scores.masked_fill(probabilities < floor, -torch.inf)


def gumbel_noise(params: SamplingTensors, num_tokens: int) -> Tensor:
    """Return standard Gumbel noise that hashes (seed, position, token), ``float64[B, V]``."""
    key = _mix(_mix(params.seed) + params.position)
    token = torch.arange(1, num_tokens + 1, device=key.device) * _signed(_GOLDEN)
    bits = _shift(_mix(key[:, None] + token), 64 - _NOISE_BITS)  # (B, V)
    # The half keeps both ends out: neither logarithm may see a zero.
    uniform = (bits.double() + 0.5) * 2.0**-_NOISE_BITS
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    """Scramble ``int64`` counters into ``int64`` hashes.

    Source: splitmix64, Steele et al. 2014, doi:10.1145/2660193.2660195; products wrap.
    """
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, num_bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the hash wants zeros from the left.
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
