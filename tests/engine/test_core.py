"""How requests end and what is refused, with a model that says what it is told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dsvl_pipeline.engine.device import features
from dsvl_pipeline.errors import ConfigError, EngineError
from dsvl_pipeline.records import ImageInput, Request
from tests.engine.scripted import (
    CONFIG,
    EOS,
    IMAGE_CONFIG,
    IMAGE_TOKEN,
    SIDE_PX,
    VOCAB_SIZE,
    ScriptedModel,
    answer,
    engine_config,
    expect_short,
    make_core,
    make_request,
    run,
    says,
    spell,
)


def picture(seed: int) -> ImageInput:
    """Make a random picture of bytes, read-only as an object store gives it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return ImageInput(digest=bytes([seed]), high_res=None, low_res=pixels)


def image_request(request_id: str, *images: ImageInput, **sampling: Any) -> Request:
    """Make a request whose prompt is its images and token 3."""
    ids = [IMAGE_TOKEN] * (CONFIG.num_image_tokens * len(images)) + [3]
    text = make_request(request_id, *ids, **sampling)
    return Request(
        request_id=request_id, prompt_ids=text.prompt_ids, images=images, sampling=text.sampling
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


def test_a_request_that_could_never_fit_is_answered_with_an_error() -> None:
    """It is somebody's row: it neither waits for ever nor stops the others."""
    core = make_core(num_pages=4, page_size=4)
    core.add(make_request("large", 3, 4, max_new_tokens=15), submitted_s=0.0)
    core.add(make_request("small", 3, 4, max_new_tokens=14), submitted_s=0.0)
    done = run(core)
    assert done["small"].error is None
    error = done["large"].error
    assert error is not None
    assert (error.code, error.is_retryable) == ("capacity", False)
    assert error.message == (
        "a sequence of 17 tokens needs 5 KV pages of 4 tokens, but this engine has 4; raise "
        "engine.kv_cache_gib or lower generation.max_new_tokens"
    )
    assert (done["large"].text, len(done["large"].completion_ids)) == ("", 0)


WRONG_SIZE = ImageInput(digest=b"", high_res=None, low_res=np.zeros((8, 8, 3), np.uint8))
BAD_DIGEST = ImageInput(
    digest=cast(bytes, bytearray(b"a")),
    high_res=None,
    low_res=np.zeros((3, SIDE_PX, SIDE_PX), np.float32),
)
DOUBLES = ImageInput(digest=b"", high_res=None, low_res=np.zeros((3, SIDE_PX, SIDE_PX)))


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            Request(request_id="row", prompt_ids=np.array([3], np.int32), schema="{}"),
            "schema_unsupported",
            "asks for text that satisfies a JSON schema",
        ),
        (
            Request(request_id="row", prompt_ids=np.array([], np.int32)),
            "prompt_invalid",
            "the prompt has 0 tokens",
        ),
        (
            make_request("row", *[3] * 100_000),
            "prompt_too_long",
            "the prompt has 100000 tokens, but the model's context is 100000",
        ),
        (
            make_request("row", 3, VOCAB_SIZE),
            "prompt_invalid",
            "token ids from 3 to 400, but the model's are 0 to 399",
        ),
        (make_request("row", -1, 3), "prompt_invalid", "token ids from -1 to 3"),
        (
            make_request("row", 3, IMAGE_TOKEN),
            "image_token_count",
            "the prompt has 1 image token but the request lists 0 images",
        ),
        (image_request("row", WRONG_SIZE), "image_invalid", r"picture is uint8\[8, 8, 3\]; the"),
        (
            image_request("row", BAD_DIGEST),
            "image_invalid",
            "digest is bytearray; it must be bytes",
        ),
        (image_request("row", DOUBLES), "image_invalid", r"picture is float64\[3, 32, 32\]"),
    ],
)
def test_a_broken_request_is_answered_with_an_error(
    request_: Request, code: str, message: str
) -> None:
    """In the middle of a step it would take all the others down."""
    completion = answer(make_core(), request_)
    assert completion.error is not None
    assert completion.error.code == code
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(completion.error.message)


@pytest.mark.parametrize(
    "draft_ids",
    [np.array([4, 10**6]), np.array([-1]), np.zeros((2, 2), np.int32), np.array([4.0])],
)
def test_a_draft_that_is_no_list_of_tokens_is_answered_with_an_error(draft_ids: Any) -> None:
    """Its tokens are looked up like any other's; a wrong one would end the engine."""
    request = replace(make_request(), draft_ids=draft_ids)
    completion = answer(make_core(), request)
    assert completion.error is not None
    assert completion.error.code == "draft_invalid"
    assert "token ids from 0 to 399" in completion.error.message


@pytest.mark.parametrize("prompt_ids", [None, np.zeros((2, 2), np.int32), [[3], 3], {"a": 1}])
def test_a_request_that_cannot_even_be_read_is_answered_with_an_error(prompt_ids: Any) -> None:
    """Whoever made it, the others go on."""
    core = make_core(ScriptedModel(says("hey")))
    core.add(make_request("good"), submitted_s=0.0)
    core.add(Request(request_id="bad", prompt_ids=prompt_ids), submitted_s=0.0)
    done = run(core)
    assert done["good"].text == "hey"
    assert done["bad"].error is not None
    assert done["bad"].error.code == "request_invalid"
    assert "compare its fields with" in done["bad"].error.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 2**31}, r"top_k is 2147483648; it must be from 0 \(off\) to below 2\*\*31"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 5.5}, "top_k is 5.5; it must be an integer"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer"),
        ({"temperature": 1e-6}, r"temperature is 1e-06; it must be 0 \(greedy\) or at least 1e-5"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_settings_that_overflow_on_the_device_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    """There they would end the engine, not the request."""
    with pytest.raises(ValueError, match=message):
        make_request(**settings)


def test_the_bounds_of_the_settings_can_be_run() -> None:
    """The likeliest token is all that such a temperature leaves."""
    core = make_core(ScriptedModel(says("hey")))
    assert answer(core, make_request(top_k=2**31 - 1, temperature=1e-5)).text == "hey"


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


def test_equal_images_are_encoded_once() -> None:
    """Across sequences of a step, and later on while their features are still kept."""
    model = ScriptedModel()
    core = make_core(model)
    one, two = picture(1), picture(2)
    core.add(image_request("a", one, two, one, max_new_tokens=2), submitted_s=0.0)
    core.add(image_request("b", two, max_new_tokens=2), submitted_s=0.0)
    run(core)
    core.add(image_request("c", two, picture(3), max_new_tokens=2), submitted_s=0.0)
    run(core)
    assert sum(map(len, model.encoded)) == core.stats()["images_encoded"] == 3


def test_features_are_dropped_by_their_last_use() -> None:
    """A job has very many images; what is kept of those that nobody needs must not grow."""
    model = ScriptedModel()
    core = make_core(model, prefix_sharing=False)

    def ask(number: int) -> int:
        request = image_request(f"{len(model.encoded)}", picture(number), max_new_tokens=1)
        answer(core, request)
        return len(model.encoded)

    for number in range(64):
        assert ask(number) == number + 1
    assert ask(0) == 64
    assert ask(64) == 65, "and drops 1, since 0 was used again"
    assert ask(0) == 65
    assert ask(2) == 65
    assert ask(1) == 66


def test_features_of_what_runs_are_kept_however_many_others_pass() -> None:
    """By count: a sequence may show a picture twice, and share it with others."""
    model = ScriptedModel()
    core = make_core(model)
    core.add(image_request("long", picture(0), picture(0), max_new_tokens=300), submitted_s=0.0)
    core.add(image_request("also", picture(0), max_new_tokens=2), submitted_s=0.0)
    for number in range(1, 80):
        core.add(image_request(f"{number}", picture(number), max_new_tokens=1), submitted_s=0.0)
    while core.stats()["sequences_running"] + core.stats()["sequences_waiting"] > 1:
        core.step()
    core.add(image_request("later", picture(0), max_new_tokens=1), submitted_s=0.0)
    core.step()
    assert len(model.encoded) == 80
    run(core)
    entries = core._runner._features._entries
    assert [entry.num_users for entry in entries.values()] == [0] * 64
    assert not core._runner._features._holders


def test_features_are_no_views_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of eight that is still needed would keep the memory of all."""
    monkeypatch.setattr(features, "_IMAGES_PER_PASS_ON_CPU", 8)
    core = make_core()
    images = [picture(number) for number in range(8)]
    core.add(image_request("row", *images, max_new_tokens=1), submitted_s=0.0)
    core.step()
    for entry in core._runner._features._entries.values():
        assert entry.features.untyped_storage().nbytes() == entry.features.nbytes


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


def test_a_preempted_sequence_keeps_its_image_features() -> None:
    """Vision costs more than the prefill that has to be done again."""
    model = ScriptedModel()
    core = make_core(model, num_pages=8, page_size=2)
    expect_short(core)
    core.add(image_request("a", picture(1), max_new_tokens=9), submitted_s=0.0)
    core.add(image_request("b", picture(2), max_new_tokens=9), submitted_s=0.0)
    run(core)
    assert core.stats()["preemptions"] > 0
    assert len(model.encoded) == 2
    # counted once each, however often it starts again
    assert [e.num_users for e in core._runner._features._entries.values()] == [0, 0]


def test_bytes_are_normalised_as_the_reference_does() -> None:
    """Bit by bit; pixel values that come as floats are left alone."""
    model = ScriptedModel()
    core = make_core(model)
    tower = IMAGE_CONFIG.low_res
    pixels = picture(7).low_res
    expected = np.stack([tower.table[c][pixels[..., c]] for c in range(3)])
    floats = ImageInput(digest=b"f", high_res=None, low_res=expected * 2)
    answer(core, image_request("row", picture(7), floats, max_new_tokens=1))
    encoded = torch.cat(model.encoded)
    assert_close(encoded, torch.from_numpy(np.stack([expected, expected * 2])), rtol=0, atol=0)


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
