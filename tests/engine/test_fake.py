"""The fake engine: what the pipeline's tests rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsvl_pipeline.engine.fake import FakeEngine
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.records import (
    EngineConfig,
    FakeEngineConfig,
    ImageInput,
    Request,
    SamplingParams,
)


def fake_engine(**settings: float) -> FakeEngine:
    """Make an engine with these `FakeEngineConfig` settings."""
    return FakeEngine(EngineConfig(kind="fake", fake=FakeEngineConfig(**settings)))


def request(number: int, **sampling: int | bool) -> Request:
    """Make one of many text requests."""
    return Request(
        request_id=f"row-{number}",
        prompt_ids=np.array([1, 2, number], dtype=np.int32),
        sampling=SamplingParams(**sampling),
    )


def test_answers_depend_on_the_request_alone() -> None:
    """Runs are compared row by row, whatever their batches and replicas were."""
    together = fake_engine(mean_delay_s=0.002).generate([request(n) for n in range(20)])
    alone = [fake_engine().generate([request(n)])[0] for n in reversed(range(20))][::-1]
    assert [c.text for c in together] == [c.text for c in alone]
    assert [c.request_id for c in together] == [f"row-{n}" for n in range(20)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.completion_ids, other.completion_ids)
    assert len({c.text for c in together}) > 15


def test_the_text_depends_on_pixels_and_seed_but_not_on_the_request_id() -> None:
    """As with a model: the same question about the same image has the same answer."""
    pixels = np.zeros((2, 2, 3), np.uint8)

    def ask(request_id: str, digest: bytes, seed: int) -> str:
        image = ImageInput(digest=digest, high_res=None, low_res=pixels)
        prompt_ids = np.array([1, 2], np.int32)
        asked = Request(request_id=request_id, prompt_ids=prompt_ids, images=(image,))
        return fake_engine(seed=seed, mean_completion_tokens=40).generate([asked])[0].text

    assert ask("a", b"x", 0) == ask("b", b"x", 0)
    assert len({ask("a", b"x", 0), ask("a", b"y", 0), ask("a", b"x", 1)}) == 3


def test_completions_arrive_in_the_order_of_their_delays() -> None:
    """A pipeline that relies on arrival order must fail its tests."""
    engine = fake_engine(mean_delay_s=0.01)
    for number in range(12):
        engine.submit(request(number))
    arrived: list[str] = []
    while len(arrived) < 12:
        arrived += [completion.request_id for completion in engine.poll(1.0)]
    assert sorted(arrived) == sorted(f"row-{n}" for n in range(12))
    assert arrived != [f"row-{n}" for n in range(12)]


def test_a_long_answer_is_cut_with_finish_reason_length() -> None:
    """So that tests meet degraded rows."""
    completions = fake_engine(mean_completion_tokens=30).generate(
        [request(n, max_new_tokens=8, logprobs=True) for n in range(30)]
    )
    for completion in completions:
        is_cut = completion.finish_reason == "length"
        assert 1 <= len(completion.completion_ids) <= 8
        assert len(completion.completion_ids) == 8 or not is_cut
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.completion_ids)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_a_cancelled_request_comes_back_at_once() -> None:
    """Cancelling is an answer too: rows out equal rows in."""
    engine = fake_engine(mean_delay_s=1000.0)
    engine.submit(request(0))
    engine.submit(request(1))
    engine.cancel("row-1")
    engine.cancel("unknown")
    (completion,) = engine.poll(0.0)
    assert (completion.request_id, completion.finish_reason) == ("row-1", "cancelled")
    assert engine.poll(0.0) == []


def test_two_requests_with_one_id_are_refused() -> None:
    """Their completions could not be told apart."""
    engine = fake_engine()
    engine.submit(request(0))
    with pytest.raises(ValueError, match="'row-0' is already in the engine"):
        engine.submit(request(0))
    assert len(engine.poll(1.0)) == 1
    engine.submit(request(0))


def test_a_closed_engine_says_so() -> None:
    """A forgotten engine must not look like a slow one."""
    engine = fake_engine()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.poll(0.0)
    with pytest.raises(EngineError, match="closed"):
        engine.submit(request(0))


ATTEMPT = """
import sys
import numpy as np
from dsvl_pipeline.engine.fake import FakeEngine
from dsvl_pipeline.records import EngineConfig, FakeEngineConfig, Request

fake = FakeEngineConfig(crash_rate=0.5, crash_dir=sys.argv[1] or None)
engine = FakeEngine(EngineConfig(kind="fake", fake=fake))
ids = np.array([1], dtype=np.int32)
engine.generate([Request(request_id=str(n), prompt_ids=ids) for n in range(8)])
assert "torch" not in sys.modules
"""


def attempt(crash_dir: str) -> int:
    """Run `ATTEMPT` in a process of its own and return its exit status."""
    return subprocess.run([sys.executable, "-c", ATTEMPT, crash_dir], check=False).returncode


def test_a_chosen_request_kills_its_first_process_only(tmp_path: Path) -> None:
    """Retries are tested with it. The marker outlives the process that it stands for."""
    codes = [attempt(str(tmp_path)) for _ in range(9)]
    num_crashes = codes.index(0)
    assert 0 < num_crashes < 8
    assert codes == [1] * num_crashes + [0] * (9 - num_crashes)
    assert len(list(tmp_path.iterdir())) == num_crashes


def test_without_a_marker_directory_a_chosen_request_always_kills() -> None:
    """The poisoned row that a bounded number of attempts has to give up on."""
    assert [attempt(""), attempt("")] == [1, 1]
