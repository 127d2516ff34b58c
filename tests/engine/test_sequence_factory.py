"""What is refused before it runs: somebody's row, whatever it holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from dsvl_pipeline.records import ImageInput, Request
from tests.engine.scripted import (
    IMAGE_TOKEN,
    SIDE_PX,
    VOCAB_SIZE,
    ScriptedModel,
    answer,
    image_request,
    make_core,
    make_request,
    run,
    says,
)


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
