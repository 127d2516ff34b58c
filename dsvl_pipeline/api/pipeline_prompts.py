"""What a pipeline is called with, in all its forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsvl_pipeline.errors import ConfigError


class ConfigValueError(ConfigError, ValueError):
    """A call asks for what there is not."""


class Prompt:
    """One thing to answer: a chat, or one or several texts with their pictures."""

    def __init__(self, *, chat: Any = None, text: Any = None, images: Any = None) -> None:
        self.chat = None if chat is None else list(chat)
        self.text, self.images = text, images
        self.continues = chat is not None and self.chat[-1]["role"] == "assistant"  # type: ignore[index]

    def told(self) -> list[Any]:
        """Return what came in: one thing for each answer, or group of answers."""
        if self.chat is not None:
            return [self.chat]
        return list(self.text) if isinstance(self.text, list | tuple) else [self.text]

    def with_answer(self, told: Any, answer: str) -> Any:
        """Return what came in, and the answer after it."""
        if self.chat is None:
            return told + answer
        if not self.continues:
            return [*told, {"role": "assistant", "content": answer}]
        *before, last = told
        content = last["content"]
        if isinstance(content, str):
            content = content + answer
        else:
            content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + answer}]
        return [*before, {**last, "content": content}]


def read_prompts(images: Any, text: Any) -> tuple[list[Prompt], bool]:
    """Read all forms of a call: what to answer, and whether it is one thing."""
    if images is None and text is None:
        raise ConfigValueError("there is nothing to answer; give text, images with text, or a chat")
    alone = images if text is None else text if images is None else None
    if alone is None:
        if _is_chats(text):
            raise ConfigValueError("a chat has its images in its messages; leave images= out")
        texts = list(text) if isinstance(text, tuple) else text
        return [Prompt(text=texts, images=images)], True
    several = [alone] if isinstance(alone, str | Mapping) or _is_chat(alone) else list(alone)
    is_single = len(several) == 1 and several[0] is alone
    return [_prompt(one, is_picture=text is None) for one in several], is_single


def _prompt(one: Any, *, is_picture: bool) -> Prompt:
    if _is_chat(one):
        return Prompt(chat=one)
    if isinstance(one, Mapping) and "text" in one:
        return Prompt(text=one["text"], images=one.get("images", one.get("image")))
    if isinstance(one, str) and not is_picture:
        return Prompt(text=one)
    raise ConfigValueError("pictures come without a text; give text= as well")


def batches(prompts: Sequence[Prompt], size: int, continues: bool | None) -> Iterator[list[Prompt]]:
    """Group chats that are asked in one way; texts go one by one."""
    batch: list[Prompt] = []
    for prompt in prompts:
        if prompt.chat is not None and continues is not None:
            prompt.continues = continues
        fits = batch and prompt.chat is not None and batch[0].chat is not None
        if batch and not (fits and len(batch) < size and prompt.continues == batch[0].continues):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _is_chat(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and isinstance(value[0], Mapping) and "role" in value[0]


def _is_chats(value: Any) -> bool:
    return _is_chat(value) or (
        isinstance(value, list | tuple) and bool(value) and _is_chat(value[0])
    )
