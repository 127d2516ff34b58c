"""The engine's thread: hand-over, failure, closing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import dsvl_pipeline
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.errors import CheckpointError, EngineError
from dsvl_pipeline.records import EngineConfig, Request, SamplingParams
from tests.engine.scripted import Gate, ScriptedModel, make_engine, make_request, says

ENDLESS = {3: 110, 110: 110}


def test_generate_answers_in_the_order_of_the_requests() -> None:
    """Short answers overtake long ones inside."""
    engine = make_engine(max_num_sequences=3)
    requests = [make_request(f"{n}", max_new_tokens=1 + 7 * n % 10) for n in range(12)]
    completions = engine.generate(requests)
    assert [c.request_id for c in completions] == [f"{n}" for n in range(12)]
    assert [len(c.completion_ids) for c in completions] == [1 + 7 * n % 10 for n in range(12)]
    assert engine.generate([]) == []
    engine.close()


def test_any_thread_may_submit_and_poll() -> None:
    """Ray's event loop submits, another thread polls; no request is lost or answered twice."""
    engine = make_engine(ScriptedModel(says("hey")), max_num_sequences=4)
    finished: list[str] = []

    def submit(thread: int) -> None:
        for number in range(25):
            engine.submit(make_request(f"{thread}-{number}"))

    def poll() -> None:
        while len(finished) < 100:
            finished.extend(completion.request_id for completion in engine.poll(0.01))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    engine.close()
    assert sorted(finished) == sorted(f"{t}-{n}" for t in range(4) for n in range(25))


def test_poll_waits_no_longer_than_asked() -> None:
    """And returns at once when something is there."""
    model = ScriptedModel(ENDLESS)
    gate = Gate(model)
    engine = make_engine(model)
    engine.submit(make_request(max_new_tokens=2))
    assert engine.poll(0.01) == []
    gate.opened.set()
    (completion,) = engine.poll(10.0)
    assert completion.text == "\n\n"
    engine.close()


def test_cancelling_ends_a_running_request() -> None:
    """An endless answer would keep its pages for long."""
    model = ScriptedModel(ENDLESS)
    gate = Gate(model)
    engine = make_engine(model, num_pages=100_000)
    engine.submit(make_request(max_new_tokens=90_000))
    assert gate.reached.wait(10.0)
    engine.cancel("row")
    gate.opened.set()
    (completion,) = engine.poll(10.0)
    assert completion.finish_reason == "cancelled"
    assert completion.text == "\n", "the step that ran meanwhile counts"
    engine.close()


def test_a_request_id_in_use_is_refused() -> None:
    """The two completions could not be told apart."""
    engine = make_engine(ScriptedModel(says("hey")))
    engine.submit(make_request())
    with pytest.raises(ValueError, match="request 'row' is already in the engine"):
        engine.submit(make_request())
    assert len(engine.poll(10.0)) == 1
    engine.submit(make_request())
    assert len(engine.poll(10.0)) == 1
    engine.close()


def test_a_failing_step_reaches_everybody_who_waits() -> None:
    """With its cause. What was finished before it is handed out first."""
    model = ScriptedModel(says("hey"))
    engine = make_engine(model)
    (completion,) = engine.generate([make_request("early")])
    assert completion.text == "hey"

    def fail() -> None:
        raise RuntimeError("device lost")

    model.before_step = fail
    engine.submit(make_request("late"))
    with pytest.raises(EngineError, match="died of RuntimeError: device lost; replace") as caught:
        engine.poll(10.0)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(EngineError, match="device lost"):
        engine.submit(make_request("later"))
    with pytest.raises(EngineError, match="device lost"):
        engine.generate([make_request("later")])
    engine.close()


def test_completions_before_a_failure_are_not_lost() -> None:
    """They are good rows; running them again would cost as much as before."""
    model = ScriptedModel(says("hey"))
    engine = make_engine(model)
    steps = 0

    def fail_later() -> None:
        nonlocal steps
        steps += 1
        if steps > 2:
            raise RuntimeError("device lost")

    gate = Gate(model)
    engine.submit(make_request("short", max_new_tokens=2))
    engine.submit(make_request("long"))
    assert gate.reached.wait(10.0)
    model.before_step = fail_later
    steps = 1
    gate.opened.set()
    engine._thread.join(10.0)
    assert [completion.request_id for completion in engine.poll(0.0)] == ["short"]
    with pytest.raises(EngineError, match="device lost"):
        engine.poll(0.0)


def test_a_closed_engine_ends_its_thread_and_says_so() -> None:
    """Also with work left, and twice."""
    engine = make_engine(ScriptedModel(ENDLESS), num_pages=100_000)
    engine.submit(make_request(max_new_tokens=90_000))
    assert engine.poll(0.0) == []
    engine.close()
    engine.close()
    assert not engine._thread.is_alive()
    assert engine.stats()["sequences_running"] <= 1
    with pytest.raises(EngineError, match="the engine was closed"):
        engine.poll(1.0)
    with pytest.raises(EngineError, match="the engine was closed"):
        engine.submit(make_request("other"))


def test_ids_that_are_not_unique_are_refused_before_any_work() -> None:
    """Else the first of them would run on, and answer somebody else's call."""
    engine = make_engine(ScriptedModel(says("hey")))
    with pytest.raises(ValueError, match="two requests have the id 'b'; give each one of its own"):
        engine.generate([make_request("a"), make_request("b"), make_request("b")])
    (completion,) = engine.generate([make_request("a")])
    assert completion.text == "hey"
    engine.close()


@pytest.mark.parametrize("content", [None, "{}", "[" * 100_000])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    """Before the weights are loaded, which takes minutes."""
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read: .*; fetch it, or"):
        ModelEngine.from_checkpoint(tmp_path, EngineConfig(), dtype="float32", device="cpu")


def test_a_checkpoint_becomes_an_engine() -> None:
    """Weights, tokenizer, end of sequence and image settings all come out of its directory."""
    directory = Path(dsvl_pipeline.__path__[0]) / "demo" / "checkpoint"
    engine = ModelEngine.from_checkpoint(directory, EngineConfig(), dtype="auto", device="cpu")
    prompt_ids = np.array([0, *range(50, 60)], dtype=np.int32)
    sampling = SamplingParams(max_new_tokens=12, temperature=1.0, seed=5, logprobs=True)
    request = Request(request_id="row", prompt_ids=prompt_ids, sampling=sampling)
    first, second = (engine.generate([request])[0] for _ in range(2))
    engine.close()
    assert first.completion_ids.tolist() == second.completion_ids.tolist()
    assert first.text == second.text
    assert first.logprobs is not None
    assert len(first.logprobs) == len(first.completion_ids) <= 12
