"""How requests end, with a model that says what it is told."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from dsvl_pipeline.errors import ConfigError, EngineError
from tests.engine.scripted import (
    CONFIG,
    EOS,
    VOCAB_SIZE,
    ScriptedModel,
    answer,
    engine_config,
    make_core,
    make_request,
    run,
    says,
    spell,
)


def test_the_end_of_sequence_ends_a_completion() -> None:
    """The stop id is kept among the ids and left out of the text."""
    completion = answer(make_core(ScriptedModel(says("hey"))), make_request())
    assert completion.completion_ids.tolist() == [*spell("hey"), EOS]
    assert completion.completion_ids.dtype == np.int32
    assert (completion.text, completion.finish_reason) == ("hey", "stop")
    assert (completion.num_prompt_tokens, completion.logprobs, completion.error) == (1, None, None)
    assert 0 < completion.timings["first_token_s"] <= completion.timings["finished_s"]


def test_ignore_eos_goes_on() -> None:
    """Benchmarks want completions of equal length."""
    model = ScriptedModel(says("hey"))
    completion = answer(make_core(model), make_request(max_new_tokens=6, ignore_eos=True))
    assert completion.completion_ids.tolist() == [*spell("hey"), EOS, 2, 3]
    assert completion.finish_reason == "length"


def test_a_request_may_name_stop_ids() -> None:
    """Besides the checkpoint's; such a token may be readable and is still no part of the text."""
    core = make_core(ScriptedModel(says("hey")))
    completion = answer(core, make_request(stop_token_ids=tuple(spell("y"))))
    assert completion.completion_ids.tolist() == spell("hey")
    assert (completion.text, completion.finish_reason) == ("he", "stop")
    ignoring = make_request(stop_token_ids=tuple(spell("y")), ignore_eos=True)
    assert answer(core, ignoring).text == "he"


def test_text_is_cut_before_a_stop_text() -> None:
    """The ids hold what was produced until then, the text what was asked for."""
    core = make_core(ScriptedModel(says("abcdé!f")))
    completion = answer(core, make_request(stop=("never", "dé")))
    assert completion.completion_ids.tolist() == spell("abcdé")
    assert (completion.text, completion.finish_reason) == ("abc", "stop")


def test_the_longest_answer_ends_with_length() -> None:
    """A stop that falls on the last token is a stop all the same."""
    core = make_core(ScriptedModel(says("hey")))
    cut = answer(core, make_request("a", max_new_tokens=2))
    assert (cut.text, cut.finish_reason, len(cut.completion_ids)) == ("he", "length", 2)
    assert answer(core, make_request("b", max_new_tokens=4)).finish_reason == "stop"


@pytest.mark.parametrize(("most", "text"), [(2, "h"), (3, "h"), (4, "h€"), (5, "h€y")])
def test_an_answer_that_is_cut_does_not_end_in_half_a_character(most: int, text: str) -> None:
    """The euro sign takes three tokens here; the ids hold all that was produced."""
    core = make_core(ScriptedModel(says("h€y")))
    completion = answer(core, make_request(max_new_tokens=most, logprobs=True))
    assert (completion.text, completion.finish_reason) == (text, "length")
    assert completion.completion_ids.tolist() == spell("h€y")[:most]
    assert completion.logprobs is not None
    assert len(completion.logprobs) == most


def test_the_context_ends_a_completion_with_length() -> None:
    """The model has no positions beyond it."""
    prompt_ids = [3] * (CONFIG.text.max_positions - 5)
    core = make_core(num_pages=30_000, max_step_tokens=100_000)
    completion = answer(core, make_request("row", *prompt_ids, max_new_tokens=128))
    assert (completion.finish_reason, len(completion.completion_ids)) == ("length", 5)


def test_logprobs_come_where_asked_for() -> None:
    """Other sequences of the batch do without."""
    core = make_core(ScriptedModel(says("hey")))
    core.add(make_request("with", logprobs=True), submitted_s=0.0)
    core.add(make_request("without"), submitted_s=0.0)
    done = run(core)
    expected = 7.0 - np.log(np.exp(7.0) + VOCAB_SIZE - 1)
    # A log softmax is the difference of two float32 values near 8, each off by up to 1e-6 and
    # more, by the order in which a processor sums.
    np.testing.assert_allclose(done["with"].logprobs, [expected] * 4, rtol=0, atol=4e-6)
    assert done["without"].logprobs is None


def test_a_seed_may_be_any_integer() -> None:
    """Users hash names into seeds; on the device there are 64 bits."""
    core = make_core()
    seeds = {"small": 5, "same": 5 + 2**64, "huge": 3**200, "negative": -(2**63) - 1}
    for name, seed in seeds.items():
        request = make_request(name, max_new_tokens=20, temperature=50.0, seed=seed)
        core.add(request, submitted_s=0.0)
    texts = {name: completion.completion_ids.tolist() for name, completion in run(core).items()}
    assert texts["small"] == texts["same"]
    assert texts["huge"] != texts["small"] != texts["negative"]


def test_the_penalty_counts_prompt_and_completion() -> None:
    """Strong enough, no token of either comes twice; the rows beside it are left alone."""
    core = make_core(ScriptedModel({3: 5, 5: 5, 0: 5}))
    for name, penalty in (("a", 1000.0), ("plain", 1.0), ("b", 1000.0)):
        sampling = {"max_new_tokens": 6, "ignore_eos": True, "repetition_penalty": penalty}
        core.add(make_request(name, **sampling), submitted_s=0.0)
    done = run(core)
    assert done["plain"].completion_ids.tolist() == [5] * 6
    # 5 is not to follow itself: 0 wins the tie of all others. 3 is missing, the prompt has it.
    assert done["a"].completion_ids.tolist() == [5, 0, 1, 2, 4, 6]
    assert done["b"].completion_ids.tolist() == [5, 0, 1, 2, 4, 6]
    sampling["repetition_penalty"] = 1000.0
    for _ in range(3):  # nor does a sequence inherit what others have seen
        again = answer(core, make_request(**sampling))
        assert again.completion_ids.tolist() == [5, 0, 1, 2, 4, 6]


def test_a_cancelled_request_keeps_what_it_has() -> None:
    """Waiting or running; and its pages go to the others."""
    core = make_core(ScriptedModel({3: 110, 110: 110}), num_pages=10, page_size=4)
    core.add(make_request("running", 3, max_new_tokens=39), submitted_s=0.0)
    core.add(make_request("waiting", *[3] * 30, max_new_tokens=5), submitted_s=0.0)
    for _ in range(12):
        core.step()
    core.cancel("running")
    core.cancel("running")
    core.cancel("unknown")
    core.add(make_request("third", *[3] * 30, max_new_tokens=5), submitted_s=0.0)
    core.cancel("third")
    done = run(core)
    assert done["running"].finish_reason == done["third"].finish_reason == "cancelled"
    assert done["running"].text == "\n" * 12
    assert done["third"].text == ""
    assert done["waiting"].text == "\n" * 5
    assert core.stats()["kv_pages_used"] == 0


def test_the_first_token_is_timed_once() -> None:
    """By its own step, not by the last."""
    model = ScriptedModel({3: 110, 110: 110})
    core = make_core(model)
    core.add(make_request(max_new_tokens=4), submitted_s=time.monotonic())
    core.step()
    core.step()  # reads the tokens of the first
    time.sleep(0.05)
    completion = run(core)["row"]
    assert completion.timings["finished_s"] - completion.timings["first_token_s"] >= 0.05


def test_memory_without_room_for_a_page_is_a_config_error() -> None:
    """Found before anything runs."""
    with pytest.raises(ConfigError, match=r"one page of 4 tokens takes .* GiB; raise engine\.kv"):
        make_core(num_pages=0)
    assert make_core(num_pages=1).stats()["kv_pages_total"] == 1


def test_pages_are_never_more_than_can_be_used() -> None:
    """A tiny model does not need the gigabyte it may take."""
    assert engine_config(num_pages=10**7).kv_cache_gib != "auto"
    core = make_core(num_pages=10**7, max_num_sequences=3)
    assert core.stats()["kv_pages_total"] == 3 * CONFIG.text.max_positions / 4


@pytest.mark.parametrize("where", ["forward", "logits"])
@pytest.mark.parametrize("failing", [{1}, {5}, {2, 3, 9}])
def test_a_step_without_memory_is_done_in_smaller_ones(where: str, failing: set[int]) -> None:
    """Prefill or decode: every row gets what it would have got, and nobody is asked again."""
    model = ScriptedModel(says("abcdefghijk"))
    usual, calls = getattr(model, where), 0

    def scarce(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise torch.OutOfMemoryError("scarce")
        return usual(*args, **options)

    setattr(model, where, scarce)
    core = make_core(model, num_pages=100)
    for number in range(12):
        core.add(make_request(f"{number}", 3, max_new_tokens=9), submitted_s=0.0)
    done = run(core)
    assert {completion.text for completion in done.values()} == {"abcdefghi"}
    assert len(done) == 12
    assert core.stats()["step_downs"] == len(failing)


def test_a_device_without_memory_for_one_sequence_is_an_error() -> None:
    """It says what to do, once smaller steps do not help."""
    model = ScriptedModel()

    def scarce(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("scarce")

    model.forward = scarce  # type: ignore[method-assign]
    core = make_core(model)
    core.add(make_request(), submitted_s=0.0)
    with pytest.raises(EngineError, match=r"no memory for a step of 1 sequence.*kv_cache_gib"):
        run(core)


def test_stats_count_what_was_done() -> None:
    """The pipeline reports them, and benchmarks read where the time went."""
    core = make_core(ScriptedModel(says("hey")), num_pages=100)
    core.add(make_request("a"), submitted_s=0.0)
    core.add(make_request("b", 3, 3, 3), submitted_s=0.0)
    core.step()
    assert core.stats()["sequences_running"] == 2
    assert core.stats()["kv_pages_used"] == 4
    run(core)
    stats = core.stats()
    assert stats["steps"] == 4
    assert stats["prompt_tokens"] == 4
    assert stats["new_tokens"] == 8
    assert stats["sequences_running"] == stats["sequences_waiting"] == stats["preemptions"] == 0
    for name in ("prefill_s", "decode_s", "host_s"):
        assert stats[name] > 0
    assert stats["vision_s"] == 0
    assert stats["occupancy"] == 2 / 16
