"""``pipeline``: each form of a call gives what transformers' own gives, on the demo checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import dsvl_pipeline
from dsvl_pipeline import hub

ROOT = Path(__file__).resolve().parents[2]
PICTURE = str(ROOT / "dsvl_pipeline" / "demo" / "samples" / "scene-photo.jpg")
TEXT = "User: <image_placeholder>Describe the image.\n\nAssistant:"
CHAT: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "image", "url": PICTURE},
            {"type": "text", "text": "Describe the image."},
        ],
    }
]
BEGUN = [*CHAT, {"role": "assistant", "content": [{"type": "text", "text": "two purple"}]}]
PLAIN = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]


@pytest.fixture(scope="module")
def ours() -> Any:
    """The pipeline of this project."""
    return dsvl_pipeline.pipeline("image-text-to-text", model="demo")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The pipeline of transformers."""
    found = transformers.pipeline("image-text-to-text", model=str(hub.resolve("demo")))
    assert type(found.model).__module__.startswith("transformers.")
    return found


CALLS: dict[str, Callable[[Any], Any]] = {
    "a chat": lambda pipe: pipe(text=CHAT, max_new_tokens=6),
    "a chat as images": lambda pipe: pipe(CHAT, max_new_tokens=6, return_full_text=False),
    "chats": lambda pipe: pipe(text=[CHAT, PLAIN], max_new_tokens=4, return_full_text=False),
    "a begun answer": lambda pipe: pipe(text=BEGUN, max_new_tokens=6),
    "a picture": lambda pipe: pipe(PICTURE, text=TEXT, max_new_tokens=2),
    "pictures": lambda pipe: pipe(
        [PICTURE, PICTURE], text=[TEXT, TEXT], max_new_tokens=3, return_full_text=False
    ),
    "a dict": lambda pipe: pipe({"images": Image.open(PICTURE), "text": TEXT}, max_new_tokens=2),
    "a text": lambda pipe: pipe(text="Hello", max_new_tokens=3),
    "texts": lambda pipe: pipe(text=["Hello", "a b"], max_new_tokens=3),
    "several answers": lambda pipe: pipe(
        CHAT, generate_kwargs={"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3}
    ),
    "stopped": lambda pipe: pipe(
        CHAT, stop_sequence="purple", max_new_tokens=20, return_full_text=False
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_each_form_of_a_call_gives_the_same(
    ours: Any, theirs: Any, call: Callable[[Any], Any]
) -> None:
    """Nesting, keys and texts."""
    assert call(ours) == call(theirs)


def test_several_dicts_are_several_calls(ours: Any) -> None:
    """In a list, which transformers takes of a data set only."""
    one = {"images": PICTURE, "text": TEXT}
    assert ours([one, one], max_new_tokens=2) == 2 * [ours(one, max_new_tokens=2)]


def test_ids_are_prompt_and_answer(ours: Any, theirs: Any) -> None:
    """As tensors, where asked for."""
    (mine,), (other,) = (
        pipe(CHAT, return_tensors=True, max_new_tokens=3) for pipe in (ours, theirs)
    )
    assert mine.keys() == other.keys()
    assert torch.equal(mine["generated_token_ids"], other["generated_token_ids"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe(), "there is nothing to answer"),
        (lambda pipe: pipe(PICTURE), "pictures come without a text"),
        (lambda pipe: pipe(PICTURE, text=CHAT), "a chat has its images in its messages"),
        (lambda pipe: pipe(CHAT, return_full_text=True, return_tensors=True), "not both"),
        (
            lambda pipe: pipe(CHAT, max_new_tokens=1, generate_kwargs={"max_new_tokens": 1}),
            "max_new_tokens is given twice",
        ),
        (lambda _: dsvl_pipeline.pipeline("text-generation", "demo"), "only 'image-text-to-text'"),
        (lambda _: dsvl_pipeline.pipeline(), "no model is given"),
        (lambda pipe: dsvl_pipeline.pipeline(model=pipe.model), "no processor"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    ours: Any, call: Callable[[Any], Any], message: str
) -> None:
    """With what to do instead."""
    with pytest.raises(ValueError, match=message):
        call(ours)


def test_unknown_options_are_refused() -> None:
    """A word that does nothing would be taken for one that does."""
    with pytest.raises(TypeError, match="takes no 'feature'"):
        dsvl_pipeline.pipeline(model="demo", feature=1)  # type: ignore[call-arg]
