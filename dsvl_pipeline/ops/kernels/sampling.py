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

from dsvl_pipeline.ops.kernels.sampling_filters import _cut, _draw, _is_filtered
from dsvl_pipeline.ops.kernels.sampling_scores import _gumbel, _load_raw, _penalise, _row_key
from dsvl_pipeline.ops.values import SamplingTensors

# Sums depend on how they are split: tiles and warps must not follow the number of rows, or a row
# alone could be cut elsewhere than in a batch.
_TILE = 4096
_TILE_WARPS = 8
_ROW_WARPS = 16

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))
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
    ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    num_logprobs = num_rows if wants_logprobs else 0
    logprobs = torch.empty(num_logprobs, dtype=torch.float32, device=logits.device)
    if num_rows:
        given, found = _read(params), _tile_results(logits, num_tiles, wants_logprobs)
        _tile_kernel[(num_rows, num_tiles)](
            *(logits, *given, *found, num_tokens, logits.stride(0)),
            TILE=_TILE,
            IS_SAMPLED=params.is_sampled,
            IS_FILTERED=params.is_filtered,
            WANTS_LOGPROBS=wants_logprobs,
            num_warps=_TILE_WARPS,
        )
        is_filtered = params.is_sampled and params.is_filtered
        _row_kernel[(num_rows,)](
            *(logits, *given, *found, ids, logprobs, num_tokens, logits.stride(0), num_tiles),
            TILE=_TILE,
            TILES=triton.next_power_of_2(num_tiles),
            IS_FILTERED=is_filtered,
            WANTS_LOGPROBS=wants_logprobs,
            num_warps=_ROW_WARPS if is_filtered else 1,
        )
    return ids, logprobs if wants_logprobs else None


def _read(params: SamplingTensors) -> tuple[Tensor | None, ...]:
    """Return the kernels' arguments from ``seen`` to ``position``."""
    # None of a pointer makes a variant without it, so what is off costs nothing.
    seen = None if params.seen is None else params.seen.contiguous().view(torch.uint8)
    allowed = None if params.allowed is None else params.allowed.contiguous()
    settings = (
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        params.repetition_penalty,
        params.seed,
        params.position,
    )
    return seen, allowed, *(setting.contiguous() for setting in settings)


def _tile_results(logits: Tensor, num_tiles: int, wants_logprobs: bool) -> tuple[Tensor, ...]:
    """Return memory for what the first kernel tells the second, ``[B, tiles]`` each."""
    num_rows, device = len(logits), logits.device
    scores = torch.empty(num_rows, num_tiles, dtype=torch.float32, device=device)
    tokens = torch.empty(num_rows, num_tiles, dtype=torch.int32, device=device)
    shape = (num_rows, num_tiles) if wants_logprobs else (0, 0)
    raw_tops, raw_sums = torch.empty(2, *shape, dtype=torch.float32, device=device)
    return scores, tokens, raw_tops, raw_sums


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
