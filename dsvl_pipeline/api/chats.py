"""Conversations as scripts write them, taken apart into what templates and processors want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsvl_pipeline.api.pictures import sources_of
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.processor import chat
from dsvl_pipeline.wording import amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation.

    Attributes:
        messages: Without its pictures, whose places are left.
        sources: The pictures, in the order of their places.
    """

    messages: Sequence[chat.Message]
    sources: Sequence[Any]

    def check_count(self) -> None:
        """Check that every place of a picture has its own.

        Raises:
            PromptError: Code ``image_count``.
        """
        num_parts = chat.count_images(self.messages)
        if num_parts != len(self.sources):
            raise PromptError(
                "image_count",
                f"a conversation has {amount(num_parts, 'image part')}, but names "
                f"{amount(len(self.sources), 'picture')}; "
                "give each part its own under 'url' or 'image'",
            )


def read_chats(conversation: Sequence[Any]) -> tuple[list[Chat], bool]:
    """Read one conversation, or a list of them, and say whether it was a list.

    Args:
        conversation: Messages, or a list of lists of messages. A message's content is a text or a
            list of parts: ``{"type": "text", "text": ...}`` and ``{"type": "image"}`` with the
            picture under ``image``, ``url``, ``path`` or ``base64``; or OpenAI's ``image_url``.

    Raises:
        PromptError: It is no list of messages, or of such lists.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise PromptError(
            "prompt_malformed",
            f"the conversation is {conversation!r:.80}; it must be a list of messages, or a list "
            "of such lists, and hold one at least",
        )
    is_batch = not isinstance(conversation[0], Mapping)
    return [_read_chat(one) for one in (conversation if is_batch else [conversation])], is_batch


def _read_chat(conversation: Sequence[Mapping[str, Any]]) -> Chat:
    messages: list[dict[str, Any]] = []
    sources: list[Any] = []
    for message in conversation:
        content = message.get("content")
        if isinstance(content, list | tuple):
            parts = [_plain(part) for part in content]
            sources += [
                source
                for part in parts
                if part.get("type") == "image"
                for source in sources_of(part)
            ]
            content = [{"type": "image"} if p.get("type") == "image" else p for p in parts]
        # A turn may have no words, as one that only calls a tool.
        messages.append(
            {"role": message.get("role"), "content": [] if content is None else content}
        )
    return Chat(messages=messages, sources=sources)


def _plain(part: Any) -> Mapping[str, Any]:
    """Give a part in the form of the reference, also one that is of OpenAI's."""
    if not isinstance(part, Mapping):
        return {"type": part}  # which the template's reader refuses, and names
    if part.get("type") == "image_url" and "image_url" in part:
        address = part["image_url"]
        return {
            "type": "image",
            "url": address.get("url") if isinstance(address, Mapping) else address,
        }
    return part
