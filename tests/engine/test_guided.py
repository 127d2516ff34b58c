"""Drafts, grammars and the repetition guard in the engine: whatever steps and neighbours there are.

The model is the demo checkpoint, which reads; each request's lone, draftless answer is the
reference.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dsvl_pipeline import hub
from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.schedule.structured import Grammars
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import Completion, EngineConfig, Request, SamplingParams
from tests.engine.scripted import (
    ScriptedModel,
    answer,
    expect_short,
    make_core,
    make_request,
    run,
    spell,
)

DEMO = hub.resolve("demo", None)
SAMPLES = Path("dsvl_pipeline/demo/samples")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["page", "scene"]}, "n": {"type": "integer"}},
        "required": ["kind", "n"],
        "additionalProperties": False,
    }
)


def loops(**sampling: Any) -> Request:
    """A request to which the model below answers "say abcabcabc..."."""
    return make_request(max_new_tokens=300, **sampling)


@pytest.fixture
def looping() -> ScriptedModel:
    """Says three letters over and over, after an introduction."""
    ids = [3, *spell("say "), *spell("bcd"), spell("b")[0]]
    return ScriptedModel(dict(pairwise(ids)))


def test_a_loop_ends_and_one_round_of_it_is_kept(looping: ScriptedModel) -> None:
    """Ids, text and logprobs agree about where the answer ends."""
    completion = answer(make_core(looping), loops(max_loop_tokens=64, logprobs=True))
    assert (completion.text, completion.finish_reason) == ("say bcd", "repetition")
    assert completion.completion_ids.tolist() == spell("say bcd")
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.completion_ids)


def test_a_loop_goes_on_where_nobody_minds(looping: ScriptedModel) -> None:
    """The public generate() must say what transformers says."""
    completion = answer(make_core(looping), loops())
    assert (completion.finish_reason, len(completion.completion_ids)) == ("length", 300)


def test_a_loop_ends_at_the_same_token_with_a_draft(looping: ScriptedModel) -> None:
    """A step may bring nine tokens, of which the fourth ends the answer."""
    draft_ids = np.array(spell("say " + "bcd" * 99), dtype=np.int32)
    core = make_core(looping)
    completion = answer(core, replace(loops(max_loop_tokens=64), draft_ids=draft_ids))
    assert (completion.text, completion.finish_reason) == ("say bcd", "repetition")
    assert core.stats()["decode_steps"] < 20


# ------------------------------------------------------------------------------ the demo checkpoint


@pytest.fixture(scope="module")
def model() -> DeepseekVL:
    """In float32: every schedule gives the same sums."""
    return load_model(DEMO, dtype=torch.float32, device="cpu")


def core_of(model: DeepseekVL, *, num_pages: int = 4000) -> EngineCore:
    """An engine without a thread, with this many pages of four tokens."""
    text = model.config.text
    token_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * 4
    gib = (num_pages + 0.5) * 4 * token_bytes / 2**30
    processor = Processor.from_pretrained(DEMO)
    return EngineCore(
        model,
        EngineConfig(kv_cache_gib=gib, page_size_tokens=4, max_num_sequences=8),
        decode=processor.decode,
        eos_token_ids=[1],
        image_config=read_image_config(DEMO),
        grammars=Grammars(
            DEMO, vocab_size=model.config.text.vocab_size, eos_token_ids=[1], control_ids=[2]
        ),
    )


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """All kinds: greedy and sampled, free and held to a form, about three pictures."""
    processor = Processor.from_pretrained(DEMO)
    names = ("page-sign.bmp", "page-receipt.webp", "scene-small.webp")
    pictures = [processor.image((SAMPLES / name).read_bytes()) for name in names]
    forms: list[dict[str, str]] = [{}, {"schema": SCHEMA}, {"regex": "[a-z]{1,4} [0-9]{2}"}, {}]
    made = []
    for number in range(12):
        text = ("Transcribe the text in the image.", "Describe the image.")[number % 2]
        content = [{"type": "image"}, {"type": "text", "text": text}]
        sampling = SamplingParams(
            max_new_tokens=40,
            temperature=0.9 if number % 3 == 1 else 0.0,
            seed=number,
            max_loop_tokens=32,
        )
        request = processor.request(
            f"row-{number}",
            [{"role": "user", "content": content}],
            [pictures[number % 3]],
            sampling,
        )
        made.append(replace(request, **forms[number % 4]))
    return made


@pytest.fixture(scope="module")
def alone(model: DeepseekVL, requests: list[Request]) -> dict[str, Completion]:
    """The reference: each request by itself, in an engine that is large enough."""
    core = core_of(model)
    return {request.request_id: answer(core, request) for request in requests}


def spoilt(ids: NDArray[np.int32], rate: float, seed: int) -> NDArray[np.int32]:
    """The answer as a draft with errors of every kind."""
    rng = random.Random(seed)
    out: list[int] = []
    for token_id in ids.tolist():
        kind = rng.choice("rlp") if rng.random() < rate else ""
        noise = rng.randrange(3, 260)
        out += {"": [token_id], "r": [noise], "l": [], "p": [noise, token_id]}[kind]
    return np.array(out, dtype=np.int32)


def assert_same(found: dict[str, Completion], wanted: dict[str, Completion]) -> None:
    """Token by token, and ended for the same reason."""
    assert found.keys() == wanted.keys()
    for request_id, completion in found.items():
        reference = wanted[request_id]
        assert completion.completion_ids.tolist() == reference.completion_ids.tolist(), request_id
        assert completion.finish_reason == reference.finish_reason
        assert completion.error is None


def test_grammars_hold_whoever_else_is_there(
    model: DeepseekVL, requests: list[Request], alone: dict[str, Completion]
) -> None:
    """Together the rows give what each gives alone, and the forms are kept."""
    core = core_of(model)
    for request in requests:
        core.add(request, submitted_s=0.0)
    assert_same(run(core), alone)
    ended = [r for r in requests if alone[r.request_id].finish_reason == "stop"]
    for request in ended:
        text = alone[request.request_id].text
        if request.schema is not None:
            assert list(json.loads(text)) == ["kind", "n"]
        if request.regex is not None:
            assert re.fullmatch(request.regex, text)
    assert sum(request.schema is not None or request.regex is not None for request in ended) >= 3


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_drafts_change_no_token(
    model: DeepseekVL, requests: list[Request], alone: dict[str, Completion], rate: float
) -> None:
    """Good or bad, greedy or sampled, beside rows with and without drafts, and preempted."""
    core = core_of(model, num_pages=140)  # two rows, but not to their ends
    expect_short(core)
    for number, request in enumerate(requests):
        draft_ids = spoilt(alone[request.request_id].completion_ids, rate, number)
        core.add(replace(request, draft_ids=draft_ids if number % 4 else None), submitted_s=0.0)
    assert_same(run(core), alone)
    stats = core.stats()
    assert stats["drafted_tokens"] > 0
    assert stats["preemptions"] > 0
    if rate == 0:
        assert stats["accepted_tokens"] == stats["drafted_tokens"]
