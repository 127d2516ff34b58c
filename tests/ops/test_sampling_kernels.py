"""The sampling kernel against the torch reference, and its draws against exact probabilities.

Letters: ``B`` rows, ``V`` vocabulary; a tile of the kernel is 4096 tokens.

The kernel's noise and its sums are float32, the reference's are float64: two candidates that differ
by the noise's error (2e-5) or by float32's last bits may swap. Greedy choices are equal.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dsvl_pipeline.ops import sampling
from dsvl_pipeline.ops.sampling import (
    choose,
    filter_scores,
    forbid,
    gumbel_noise,
    penalise,
    sample,
    sample_with_logprobs,
    token_logprobs,
)
from dsvl_pipeline.ops.values import SamplingTensors
from dsvl_pipeline.records import SamplingParams
from tests.ops.kernels import on_each_device
from tests.ops.settings import tensors, to_words

pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim:DeprecationWarning"
)

VOCABULARIES = [1, 5, 33, 4096, 4097, 9001]
GREEDY = SamplingParams()
SETTINGS = {
    "temperature": SamplingParams(temperature=1.3),
    "low temperature": SamplingParams(temperature=0.05),
    "top-k": SamplingParams(temperature=1.0, top_k=50),
    "top-k 1": SamplingParams(temperature=2.0, top_k=1),
    "top-k beyond the vocabulary": SamplingParams(temperature=1.0, top_k=100_000),
    "top-p": SamplingParams(temperature=0.8, top_p=0.9),
    "top-p tiny": SamplingParams(temperature=1.0, top_p=1e-9),
    "min-p": SamplingParams(temperature=1.0, min_p=0.05),
    "all": SamplingParams(
        temperature=1.5, top_k=300, top_p=0.7, min_p=0.01, repetition_penalty=1.3
    ),
    "penalty below 1": SamplingParams(temperature=1.0, top_p=0.8, repetition_penalty=0.7),
}


@pytest.fixture(autouse=True)
def _kernel_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sample` answers must come from the kernel."""

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the torch reference ran")

    monkeypatch.setattr(sampling, "choose", refuse)


def to(device: str, params: SamplingTensors) -> SamplingTensors:
    """Move settings."""
    fields = {name: getattr(params, name) for name in SamplingTensors.__slots__}
    return SamplingTensors(
        **{
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in fields.items()
        }
    )


def settings(rows: list[SamplingParams], **more: Tensor) -> SamplingTensors:
    """Put settings into tensors; every row draws at a place and from a seed of its own."""
    params = tensors(rows, **more)
    count = torch.arange(len(rows))
    return replace(params, seed=count * 7919 - 5, position=count % 11)


def normal(num_rows: int, num_tokens: int, *, seed: int = 0, spread: float = 3.0) -> Tensor:
    """Logits, the same on every device."""
    return spread * torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(seed))


def bools(num_rows: int, num_tokens: int, *, share: float) -> Tensor:
    """Flags of which a share is set."""
    return torch.rand(num_rows, num_tokens, generator=torch.Generator().manual_seed(1)) < share


def assert_drawn_as_reference(found: Tensor, logits: Tensor, params: SamplingTensors) -> None:
    """No token may be chosen that another of the reference's beats by more than rounding."""
    scores = penalise(forbid(logits.float(), params), params)
    noisy = filter_scores(scores, params) + gumbel_noise(params, logits.shape[-1])
    noisy = torch.where((params.temperature == 0)[:, None], scores.double(), noisy)
    best = noisy.amax(-1)
    lead = best - noisy.gather(-1, found[:, None])[:, 0]
    assert (lead <= 2e-5 + best.abs() * 2**-22).all()


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_tokens", VOCABULARIES)
def test_greedy_is_the_references(num_tokens: int, dtype: torch.dtype, device: str) -> None:
    """Bit for bit, with and without penalties and forbidden tokens."""
    logits = normal(4, num_tokens).to(dtype)
    allowed = bools(4, num_tokens, share=0.5)
    seen = bools(4, num_tokens, share=0.3)
    rows = [GREEDY, SamplingParams(repetition_penalty=1.7), GREEDY, SamplingParams()]
    for params in (
        tensors(rows),
        tensors(rows, seen=seen),
        tensors(rows, allowed=to_words(allowed)),
        tensors(rows, seen=seen, allowed=to_words(allowed)),
    ):
        found = sample(logits.to(device), to(device, params)).cpu()
        assert_close(found, choose(logits, params), rtol=0, atol=0)


@on_each_device
def test_ties_go_to_the_lowest_id(device: str) -> None:
    """As torch's argmax; in tiles of their own, too, and where nothing is possible at all."""
    logits = torch.zeros(6, 9001)
    logits[0, [70, 4095, 4096, 9000]] = 1
    logits[1, [4096, 8999]] = 2
    logits[2] = -math.inf
    logits[3] = -0.0
    logits[3, 5] = 0.0
    logits[4] = -math.inf
    logits[4, 9000] = -1e30
    logits[5, 8500:] = math.inf
    found = sample(logits.to(device), to(device, tensors([GREEDY] * 6))).tolist()
    assert found == [70, 4096, 0, 0, 9000, 8500]
    assert found == logits.argmax(-1).tolist()


@on_each_device
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("num_tokens", [5, 33, 4097])
def test_draws_are_the_references(num_tokens: int, name: str, device: str) -> None:
    """Rounded logits tie at the edge of every filter; others show where the edge is."""
    num_rows = 512 if device == "cuda" else 12 if num_tokens < 100 else 3
    for dtype in (torch.bfloat16, torch.float32):
        logits = normal(num_rows, num_tokens).to(dtype)
        seen = bools(num_rows, num_tokens, share=0.2)
        params = settings([SETTINGS[name]] * num_rows, seen=seen)
        found = sample(logits.to(device), to(device, params)).cpu()
        assert_drawn_as_reference(found, logits, params)


@on_each_device
@pytest.mark.parametrize("num_tokens", [33, 4097])
def test_rows_of_one_batch_do_not_disturb_each_other(num_tokens: int, device: str) -> None:
    """Every setting at once, some rows masked, one of them entirely; together and one by one."""
    rows = [GREEDY, *SETTINGS.values(), GREEDY, SETTINGS["all"]]
    logits = normal(len(rows), num_tokens).bfloat16()
    allowed = bools(len(rows), num_tokens, share=0.4)
    allowed[-1] = False
    more = {"seen": bools(len(rows), num_tokens, share=0.2), "allowed": to_words(allowed)}
    params = settings(rows, **more)
    found, logprobs = sample_with_logprobs(logits.to(device), to(device, params))
    assert_drawn_as_reference(found.cpu()[:-1], *first(logits, params, len(rows) - 1))
    assert found[-1] == 0
    for b, row in enumerate(rows):
        alone = replace(
            tensors([row], **{name: tensor[b : b + 1] for name, tensor in more.items()}),
            seed=params.seed[b : b + 1],
            position=params.position[b : b + 1],
        )
        one = sample_with_logprobs(logits[b : b + 1].to(device), to(device, alone))
        assert one[0].tolist() == [found[b].item()]
        assert one[1].tolist() == [logprobs[b].item()]


def first(logits: Tensor, params: SamplingTensors, count: int) -> tuple[Tensor, SamplingTensors]:
    """Leave out the last rows."""
    fields = {name: getattr(params, name) for name in SamplingTensors.__slots__}
    cut = {
        name: value[:count] if isinstance(value, Tensor) else value
        for name, value in fields.items()
    }
    return logits[:count], SamplingTensors(**cut)


@on_each_device
@pytest.mark.parametrize("name", ["greedy", "temperature", "top-p"])
@pytest.mark.parametrize("num_tokens", [5, 4097])
def test_logprobs_are_of_the_raw_logits(num_tokens: int, name: str, device: str) -> None:
    """Float32 sums in another order than torch's."""
    row = SETTINGS.get(name, GREEDY)
    logits = normal(8, num_tokens).bfloat16().to(device)
    allowed = bools(8, num_tokens, share=0.9)
    allowed[:, 0] = True
    params = to(device, settings([row] * 8, allowed=to_words(allowed)))
    token_ids, logprobs = sample_with_logprobs(logits, params)
    assert_close(token_ids, sample(logits, params), rtol=0, atol=0)
    assert_close(logprobs, token_logprobs(logits, token_ids), rtol=0, atol=1e-5)


@on_each_device
def test_logits_may_be_a_view(device: str) -> None:
    """Rows of a larger tensor, and settings that are columns of one."""
    wide = normal(6, 5000).to(device)
    params = to(device, settings([SETTINGS["all"]] * 6))
    columns = torch.stack([params.temperature, params.min_p], 1)
    view = replace(params, temperature=columns[:, 0], min_p=columns[:, 1])
    expected = sample(wide[:, 7:4807].contiguous(), params)
    assert_close(sample(wide[:, 7:4807], view), expected, rtol=0, atol=0)
    assert sample(wide[:0], to(device, tensors([]))).shape == (0,)


def distance(counts: Tensor, probabilities: Tensor) -> float:
    """Standard deviations that chi-square lies above what chance gives."""
    expected = probabilities.double() * counts.sum()
    statistic = ((counts - expected).square() / expected).sum().item()
    freedom = len(counts) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@on_each_device
@pytest.mark.parametrize(
    "row", [SamplingParams(temperature=1.0), SETTINGS["top-p"]], ids=["all", "top-p"]
)
def test_draws_follow_the_distribution(row: SamplingParams, device: str) -> None:
    """Chi-square against exact probabilities; a wrong temperature is noticed."""
    count, off = (300, 1.7) if device == "cpu" else (200_000, 1.1)
    logits = 1.5 * torch.randn(1, 24, generator=torch.Generator().manual_seed(3))
    params = replace(tensors([row] * count), seed=torch.arange(count))
    drawn = sample(logits.expand(count, -1).contiguous().to(device), to(device, params)).cpu()
    counts = torch.bincount(drawn, minlength=24)
    kept = filter_scores(logits, tensors([row]))[0]
    is_kept = kept.isfinite()
    assert counts[~is_kept].sum() == 0
    assert distance(counts[is_kept], kept[is_kept].double().softmax(0)) < 5
    assert distance(counts[is_kept], (kept[is_kept].double() / off).softmax(0)) > 5


@pytest.mark.gpu
def test_noise_is_fair_far_out_in_the_tail() -> None:
    """Of 102,400 equal tokens the winner's noise is about 12: each must win as often."""
    count, num_tokens, groups = 40_000, 102_400, 64
    drawn = []
    logits = torch.zeros(500, num_tokens, dtype=torch.bfloat16, device="cuda")
    for start in range(0, count, 500):
        params = tensors([SETTINGS["temperature"]] * 500)
        params = to("cuda", replace(params, seed=torch.arange(start, start + 500)))
        drawn.append(sample(logits, params))
    counts = torch.bincount(torch.cat(drawn).cpu() % groups, minlength=groups)
    assert abs(distance(counts, torch.full((groups,), 1 / groups))) < 5
    assert len(torch.cat(drawn).unique()) > 0.8 * count  # 40,000 of 102,400 with repeats


@pytest.mark.gpu
def test_a_graph_replays_with_new_settings() -> None:
    """Nothing waits for the host, and nothing that may change was read while capturing."""
    rows = [*SETTINGS.values(), GREEDY]
    logits = normal(len(rows), 102_400).bfloat16().cuda()
    params = to("cuda", settings(rows, seen=bools(len(rows), 102_400, share=0.01)))
    sample_with_logprobs(logits, params)
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            sample_with_logprobs(logits, params)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sample_with_logprobs(logits, params)
    for _ in range(3):
        logits.copy_(logits.roll(12345, dims=1))
        params.position.add_(1)
        params.top_k.copy_(params.top_k.roll(1))
        params.temperature.copy_(params.temperature.roll(1))
        graph.replay()
        assert_close(captured, sample_with_logprobs(logits, params), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_full_vocabulary(name: str) -> None:
    """The real size against the reference on the CPU."""
    logits = normal(32, 102_400).bfloat16()
    params = settings([SETTINGS[name]] * 32, seen=bools(32, 102_400, share=0.01))
    found = sample(logits.cuda(), to("cuda", params)).cpu()
    assert_drawn_as_reference(found, logits, params)
