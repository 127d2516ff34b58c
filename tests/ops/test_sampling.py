"""Sampling against transformers' processors, and its randomness against a plain one.

Letters: ``B`` sequences, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dsvl_pipeline.ops import sampling
from dsvl_pipeline.ops.sampling import filter_scores, penalise, sample, token_logprobs
from dsvl_pipeline.ops.values import SamplingTensors
from dsvl_pipeline.records import SamplingParams
from tests.ops.settings import tensors, to_words


@pytest.fixture(autouse=True, scope="module")
def _reference_only() -> Iterator[None]:
    """Also where Triton's interpreter is asked for; the kernel has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "use_triton", lambda _: False)
        yield


def upstream(row: SamplingParams, ids: Tensor, logits: Tensor) -> Tensor:
    """Return the scores that transformers' ``generate`` would draw from, ``float32[1, V]``."""
    processors = LogitsProcessorList()
    if row.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(row.repetition_penalty))
    if row.temperature != 1:
        processors.append(TemperatureLogitsWarper(row.temperature))
    if row.top_k:
        processors.append(TopKLogitsWarper(row.top_k))
    if row.top_p < 1:
        processors.append(TopPLogitsWarper(row.top_p))
    if row.min_p:
        processors.append(MinPLogitsWarper(row.min_p))
    return processors(ids, logits)


ROWS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.8]),
    top_k=st.sampled_from([0, 1, 5, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.8, 0.3, 0.01, 1e-9]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.7]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=4), data=st.integers(0, 2**31))
def test_filters_are_those_of_transformers(rows: list[SamplingParams], data: int) -> None:
    """Each row by its own settings, as if it were alone; the whole distribution, bit by bit."""
    source = torch.Generator().manual_seed(data)
    logits = 4 * torch.randn(len(rows), 60, generator=source)
    ids = torch.randint(0, 60, (len(rows), 12), generator=source)
    seen = torch.zeros(len(rows), 60, dtype=torch.bool).scatter(1, ids, True)
    params = tensors(rows, seen=seen)
    expected = torch.cat(
        [upstream(row, ids[b : b + 1], logits[b : b + 1]) for b, row in enumerate(rows)]
    )
    found = filter_scores(penalise(logits, params), params)
    assert_close(found, expected, rtol=0, atol=0)


def test_the_nucleus_ends_where_that_of_transformers_does() -> None:
    """1 - top_p is a float64 there; in float32 it would be three steps further for 0.9."""
    likely = torch.full((40,), math.log(9.0)) + torch.arange(-20, 20) * 2.0**-22
    logits = torch.stack([torch.zeros(40), likely], dim=1)  # probabilities of about 0.1 and 0.9
    row = SamplingParams(temperature=1.0, top_p=0.9)
    expected = upstream(row, torch.zeros(40, 1, dtype=torch.long), logits)
    assert_close(filter_scores(logits, tensors([row] * 40)), expected, rtol=0, atol=0)
    assert 0 < expected.isinf().sum() < 40


def test_filters_that_are_off_leave_the_logits_alone() -> None:
    """Top-p 1 keeps even what a softmax rounds to zero."""
    logits = torch.tensor([[0.0, -300.0, 5.0, -1000.0], [1.0, 2.0, 3.0, 4.0]])
    off = SamplingParams(temperature=1.0)
    beside = SamplingParams(temperature=1.0, top_k=1)
    assert_close(filter_scores(logits, tensors([off, off])), logits, rtol=0, atol=0)
    found = filter_scores(logits, tensors([off, beside]))
    assert_close(found[0], logits[0], rtol=0, atol=0)
    assert found[1].tolist() == [-math.inf, -math.inf, -math.inf, 4.0]


def test_tokens_that_tie_are_kept_together() -> None:
    """Which of them survives must not depend on how a sort orders equal values."""
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    for row in (
        SamplingParams(temperature=1.0, top_k=2),
        SamplingParams(temperature=1.0, top_p=0.6),
    ):
        assert filter_scores(logits, tensors([row])).isfinite().tolist() == [[True] * 4 + [False]]


def test_greedy_takes_the_likeliest_token_after_the_penalty() -> None:
    """As transformers does; the filters do not matter then."""
    logits = torch.tensor([[1.0, 3.0, 2.9], [1.0, 3.0, 2.9], [-1.0, -3.0, -0.5]])
    seen = torch.tensor([[False, True, False]] * 2 + [[False, False, True]])
    rows = [
        SamplingParams(),
        SamplingParams(repetition_penalty=1.5),
        SamplingParams(repetition_penalty=3.0),
    ]
    assert sample(logits, tensors(rows, seen=seen)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("num_tokens", [5, 32, 33, 70])
def test_tokens_that_are_not_allowed_are_never_chosen(num_tokens: int) -> None:
    """A grammar decides before the filters do: top-k counts allowed tokens alone."""
    source = torch.Generator().manual_seed(num_tokens)
    logits = torch.randn(3, num_tokens, generator=source)
    allowed = torch.rand(3, num_tokens, generator=source) < 0.5
    allowed[:, -1] = True  # bit 31 of a word is its sign
    masked = logits.masked_fill(~allowed, -math.inf)
    rows = [
        SamplingParams(),
        SamplingParams(temperature=1.0, top_k=1),
        SamplingParams(temperature=9.0, seed=3),
    ]
    for position in range(20):
        params = tensors(rows, position=position, allowed=to_words(allowed))
        found = sample(logits, params)
        assert_close(found, sample(masked, tensors(rows, position=position)), rtol=0, atol=0)
        assert allowed.gather(1, found[:, None]).all()
        assert found[:2].tolist() == masked[:2].argmax(-1).tolist()


@given(
    seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=5),
    position=st.integers(0, 100_000),
)
@settings(max_examples=40, deadline=None)
def test_a_draw_depends_on_neither_batch_nor_place(seeds: list[int], position: int) -> None:
    """Text must survive other batches, preemption and restarts."""
    logits = torch.randn(len(seeds), 300, generator=torch.Generator().manual_seed(position))
    rows = [
        SamplingParams(temperature=0.0 if place == 1 else 1.3, top_k=50 * (place % 2), seed=seed)
        for place, seed in enumerate(seeds)
    ]
    together = sample(logits, tensors(rows, position=position))
    backwards = sample(logits.flip(0), tensors(rows[::-1], position=position)).flip(0)
    alone = [
        sample(logits[b : b + 1], tensors([row], position=position)) for b, row in enumerate(rows)
    ]
    assert_close(together, backwards, rtol=0, atol=0)
    assert_close(together, torch.cat(alone), rtol=0, atol=0)
    assert together[1] == logits[1].argmax()


def splitmix64(value: int) -> int:
    """Scramble 64 bits, in Python's unbounded integers."""
    mask = (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def plain_draw(logits: list[float], seed: int, position: int) -> int:
    """Sample as `sample` does, with Python's numbers alone."""
    mask = (1 << 64) - 1
    key = splitmix64((splitmix64(seed & mask) + position) & mask)
    scores = []
    for token_id, logit in enumerate(logits):
        bits = splitmix64((key + (token_id + 1) * 0x9E3779B97F4A7C15) & mask) >> 12
        scores.append(logit - math.log(-math.log((bits + 0.5) * 2.0**-52)))
    return scores.index(max(scores))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62 + 12345, -(2**63)])
def test_randomness_is_a_function_of_seed_and_position(seed: int) -> None:
    """Wrapped int64 products and arithmetic shifts must not change the hash."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    row = SamplingParams(temperature=1.0, seed=seed)
    found = [sample(logits[None], tensors([row], position=n)).item() for n in range(30)]
    assert found == [plain_draw(logits.tolist(), seed, n) for n in range(30)]
    assert len(set(found)) > 5


def test_draws_follow_the_distribution() -> None:
    """20,000 seeds at one position, and 20,000 positions of one seed: both must be fair."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0])
    count = 20_000
    row = SamplingParams(temperature=1.0)
    params = tensors([row] * count)
    for field in ("seed", "position"):
        values = {name: getattr(params, name) for name in SamplingTensors.__slots__}
        values[field] = torch.arange(count)
        drawn = sample(logits.expand(count, -1), SamplingTensors(**values))
        share = torch.bincount(drawn, minlength=5) / count
        # Five standard deviations of a share: sqrt(p (1 - p) / count) * 5 <= 0.018.
        assert_close(share, logits.softmax(-1), rtol=0, atol=0.018)


def test_logprobs_are_of_the_raw_logits() -> None:
    """They tell how sure the model was, not how it was asked to draw."""
    logits = torch.randn(3, 50, dtype=torch.bfloat16)
    ids = torch.tensor([4, 0, 49])
    expected = torch.stack(
        [row.double()[i] - row.double().logsumexp(0) for row, i in zip(logits, ids, strict=True)]
    )
    # float32 against float64
    assert_close(token_logprobs(logits, ids).double(), expected, rtol=0, atol=2e-6)
