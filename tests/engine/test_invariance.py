"""A real (tiny, random) model: greedy ids are transformers', and schedules change nothing.

Letters: ``S`` edge of a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.records import Completion, EngineConfig, ImageInput, Request, SamplingParams
from tests.checkpoints import EOS_TOKEN_ID, IMAGE_TOKEN_ID, NUM_IMAGE_TOKENS, write_checkpoint
from tests.engine.scripted import expect_short


@dataclass(frozen=True, repr=False)
class Tiny:
    """One checkpoint, in transformers' class and in ours."""

    reference: Any
    model: DeepseekVL
    directory: Path

    def core(self, *, num_pages: int = 400, page_size: int = 16, **settings: int) -> EngineCore:
        """Make an engine without a thread, with this many pages."""
        text = self.model.config.text
        token_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * 4
        gib = (num_pages + 0.5) * page_size * token_bytes / 2**30
        return EngineCore(
            self.model,
            EngineConfig(kv_cache_gib=gib, page_size_tokens=page_size, **settings),
            decode=lambda ids: " ".join(map(str, ids)),
            eos_token_ids=[EOS_TOKEN_ID],
            image_config=read_image_config(self.directory),
        )

    def picture(self, seed: int) -> ImageInput:
        """Make a random picture of bytes; equal seeds, equal pictures."""
        source = np.random.default_rng(seed)
        config = self.model.config
        sides = [config.low_res.image_size_px]
        sides += [config.high_res.image_size_px] if config.high_res else []
        pixels = [source.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
        return ImageInput(
            digest=bytes([seed]), low_res=pixels[0], high_res=pixels[1] if config.high_res else None
        )


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for a second thread, for seconds where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["hybrid", "single"])
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _one_thread: None
) -> Tiny:
    """Both architectures."""
    directory = tmp_path_factory.mktemp(request.param)
    reference = write_checkpoint(directory, is_hybrid=request.param == "hybrid", seed=8)
    model = load_model(directory, dtype=torch.float32, device="cpu")
    return Tiny(reference=reference, model=model, directory=directory)


def make_request(
    tiny: Tiny, name: str, text: list[int], pictures: list[int], **sampling: Any
) -> Request:
    """Make a prompt of text with each picture after one of its tokens."""
    parts: list[list[int]] = [[0]]
    for place, _ in enumerate(pictures):
        parts += [text[place : place + 1], [IMAGE_TOKEN_ID] * NUM_IMAGE_TOKENS]
    parts.append(text[len(pictures) :])
    return Request(
        request_id=name,
        prompt_ids=np.array([i for part in parts for i in part], dtype=np.int32),
        images=tuple(tiny.picture(seed) for seed in pictures),
        sampling=SamplingParams(**sampling),
    )


def run(core: EngineCore) -> dict[str, Completion]:
    """Step until all is answered."""
    done: list[Completion] = []
    while core.has_work:
        core.step()
        done += core.take_completions()
    assert len({completion.request_id for completion in done}) == len(done)
    return {completion.request_id: completion for completion in done}


def upstream_ids(tiny: Tiny, requests: list[Request], max_new_tokens: int) -> list[list[int]]:
    """Return what transformers' ``generate`` produces for the whole batch, left-padded."""
    width = max(len(request.prompt_ids) for request in requests)
    ids = torch.full((len(requests), width), EOS_TOKEN_ID)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt_ids) :] = torch.from_numpy(request.prompt_ids)
        mask[row, width - len(request.prompt_ids) :] = 1
    config = read_image_config(tiny.directory)
    images = [image for request in requests for image in request.images]

    def values(pictures: list[Any], tower: Any) -> torch.Tensor:
        pixels = np.stack([p.transpose(2, 0, 1) for p in pictures]).astype(np.float64)
        mean, std = (np.array(v)[:, None, None] for v in (tower.mean, tower.std))
        return torch.from_numpy((pixels / 255 - mean) / std).float()

    inputs = {"pixel_values": values([image.low_res for image in images], config.low_res)}
    if config.high_res is not None:
        high_res = values([image.high_res for image in images], config.high_res)
        inputs["high_res_pixel_values"] = high_res
    produced = tiny.reference.generate(
        input_ids=ids,
        attention_mask=mask,
        **inputs,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=EOS_TOKEN_ID,
    )[:, width:].tolist()
    return [row[: row.index(EOS_TOKEN_ID) + 1] if EOS_TOKEN_ID in row else row for row in produced]


def test_greedy_ids_are_those_of_transformers(tiny: Tiny) -> None:
    """Unequal prompts with zero, one and three images, in one batch."""
    source = np.random.default_rng(0)
    requests = [
        make_request(
            tiny,
            f"{n}",
            source.integers(3, 259, 5 + 7 * n).tolist(),
            list(range(10 * n, 10 * n + num_images)),
            max_new_tokens=24,
        )
        for n, num_images in enumerate([0, 1, 3, 0, 1])
    ]
    core = tiny.core()
    for request in requests:
        core.add(request, submitted_s=0.0)
    done = run(core)
    found = [done[request.request_id].completion_ids.tolist() for request in requests]
    assert found == upstream_ids(tiny, requests, 24)
    assert len({tuple(ids) for ids in found}) == len(found)


ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "idle_steps": st.integers(0, 3),
            "length": st.integers(2, 4),
            "pictures": st.lists(st.integers(0, 3), max_size=2),
            "max_new_tokens": st.sampled_from([30, 24, 16, 1]),
            "temperature": st.sampled_from([0.0, 0.8, 1.5]),
            "top_k": st.sampled_from([0, 20]),
            "repetition_penalty": st.sampled_from([1.0, 1.3]),
            "seed": st.integers(-3, 3),
            "cancelled_after": st.sampled_from([None, None, None, None, 0, 20]),
        }
    ),
    min_size=4,
    max_size=7,
)


def test_no_schedule_changes_what_a_request_gets(tiny: Tiny) -> None:
    """Arrivals in time, few pages, tiny steps, cancellations: each id as if alone in the engine."""
    preemptions: list[float] = []

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        arrivals=ARRIVALS,
        num_pages=st.integers(14, 17),
        page_size=st.sampled_from([3, 4]),
        lanes=st.integers(3, 5),
        step_tokens=st.sampled_from([1, 5, 17, 100]),
    )
    def check(arrivals: list[dict[str, Any]], **limits: int) -> None:
        preemptions.append(check_schedule(tiny, arrivals, **limits))

    check()
    assert sum(preemptions) > 10, "what is never preempted proves little"


def check_schedule(
    tiny: Tiny,
    arrivals: list[dict[str, Any]],
    num_pages: int,
    page_size: int,
    lanes: int,
    step_tokens: int,
) -> float:
    """Run one schedule, compare each answer, and return how often it preempted."""
    core = tiny.core(
        num_pages=num_pages,
        page_size=page_size,
        max_num_sequences=lanes,
        max_step_tokens=step_tokens,
    )
    expect_short(core)
    requests: dict[str, Request] = {}
    cancel_in: dict[str, int] = {}
    done: dict[str, Completion] = {}

    def step() -> None:
        core.step()
        for name in list(cancel_in):
            cancel_in[name] -= 1
            if cancel_in[name] < 0:
                core.cancel(name)
                del cancel_in[name]
        for completion in core.take_completions():
            assert completion.request_id not in done
            done[completion.request_id] = completion

    for number, arrival in enumerate(arrivals):
        for _ in range(arrival["idle_steps"]):
            step()
        text = np.random.default_rng(number).integers(3, 259, arrival["length"]).tolist()
        names = ("max_new_tokens", "temperature", "top_k", "repetition_penalty", "seed")
        sampling = {name: arrival[name] for name in names}
        request = make_request(tiny, f"{number}", text, arrival["pictures"], **sampling)
        requests[request.request_id] = request
        core.add(request, submitted_s=0.0)
        if arrival["cancelled_after"] is not None:
            cancel_in[request.request_id] = arrival["cancelled_after"]
    while len(done) < len(requests):
        step()
    stats = core.stats()
    assert stats["kv_pages_used"] == stats["sequences_running"] == stats["sequences_waiting"] == 0

    for name, request in requests.items():
        if done[name].error is not None:
            assert done[name].error.code == "capacity"
            continue
        alone = tiny.core()
        alone.add(request, submitted_s=0.0)
        expected = run(alone)[name].completion_ids.tolist()
        found = done[name].completion_ids.tolist()
        if done[name].finish_reason == "cancelled":
            expected = expected[: len(found)]
        assert found == expected
    return stats["preemptions"]


@pytest.mark.parametrize("step_tokens", [7, 1000])
def test_what_is_recomputed_after_preemption_is_the_same(tiny: Tiny, step_tokens: int) -> None:
    """Ids, penalties, randomness, images and logprobs go on where they were."""
    names = {str(n): n for n in range(5)}
    requests = [
        make_request(
            tiny,
            name,
            np.random.default_rng(n).integers(3, 259, 4 + n).tolist(),
            [n % 2] if n else [],
            max_new_tokens=40,
            temperature=1.5 * (n % 3 > 0),
            repetition_penalty=1.0 + 0.3 * (n % 2),
            seed=n,
            ignore_eos=True,
            stop=("never",),  # else lengths would be known, and nothing preempted
            logprobs=True,
        )
        for name, n in names.items()
    ]
    core = tiny.core(num_pages=30, page_size=3, max_step_tokens=step_tokens)
    expect_short(core)
    for request in requests:
        core.add(request, submitted_s=0.0)
    done = run(core)
    assert core.stats()["preemptions"] >= 5
    for request in requests:
        alone = tiny.core()
        alone.add(request, submitted_s=0.0)
        wanted, found = run(alone)[request.request_id], done[request.request_id]
        assert found.completion_ids.tolist() == wanted.completion_ids.tolist()
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)
