"""The text side of a processor: chats and texts to ids, image tokens expanded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.api.inputs import ModelInputs
from dsvl_pipeline.api.text_options import Layout, as_kind, layout, text_inputs
from dsvl_pipeline.api.tokenizer import guard_of, pad_id_of
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.processor.chat import ChatTemplate, Rendered
from dsvl_pipeline.processor.processor import expand
from dsvl_pipeline.processor.tokens import GuardedTokenizer

_MOST_TEMPLATES = 8


class Encoder:
    """Encodes what a processor is given, with a tokenizer that may change between calls.

    What it makes of the tokenizer and of chat templates it keeps for the next call.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._guard: GuardedTokenizer | None = None
        self._templates: dict[str, ChatTemplate] = {}

    # Compiled templates cannot be pickled, and processors go to the workers of data loaders.
    def __reduce__(self) -> tuple[type[Encoder], tuple[()]]:
        return type(self), ()

    def guard(self, tokenizer: Any) -> GuardedTokenizer:
        """Return the tokenizer for text that is not trusted.

        Raises:
            TypeError: There is none for such a tokenizer.
        """
        tokens = tokenizer.special_tokens_map.items()
        key = (id(tokenizer), len(tokenizer), tuple((name, str(token)) for name, token in tokens))
        if self._guard is None or key != self._key:
            self._key, self._guard = key, guard_of(tokenizer)
            self._templates = {}
        return self._guard

    def template(self, tokenizer: Any, source: str) -> ChatTemplate:
        """Return a compiled chat template.

        Raises:
            CheckpointError: It is not valid Jinja.
        """
        guard = self.guard(tokenizer)
        if source not in self._templates:
            if len(self._templates) == _MOST_TEMPLATES:
                self._templates.clear()
            self._templates[source] = ChatTemplate(source, guard.hide, guard.named_tokens)
        return self._templates[source]

    def inputs(
        self,
        tokenizer: Any,
        texts: Sequence[Rendered],
        options: Mapping[str, Any],
        *,
        num_image_tokens: int,
        most: int | None,
        marks_answers: bool = False,
    ) -> ModelInputs:
        """Encode texts in which aliases stand for control tokens.

        Args:
            tokenizer: Says what the options leave open.
            texts: One for each prompt.
            options: `TextOptions`.
            num_image_tokens: How many image tokens a picture becomes.
            most: A longer prompt is refused, unless it may be cut.
            marks_answers: Whether ``assistant_masks`` is wanted.

        Raises:
            ValueError: A prompt is too long, or an option cannot be done.
        """
        guard, how = self.guard(tokenizer), layout(options, tokenizer)
        adds_special = options.get("add_special_tokens") is not False
        rows: list[NDArray[Any]] = []
        marks: list[NDArray[Any]] = []
        for text in texts:
            ids, offsets = guard.encode_with_offsets(text.text, adds_special=adds_special)
            kept = _kept(ids, guard, how, num_image_tokens=num_image_tokens, most=most)
            rows.append(ids[kept])
            if marks_answers:
                marks.append(_marks(offsets, text.generated)[kept])
        inputs = text_inputs(rows, options, how, pad_id=pad_id_of(tokenizer))
        masks = {"assistant_masks": marks} if marks_answers else {}
        if marks_answers and not any(mark.any() for mark in marks):
            warnings.warn(
                "assistant_masks is all 0: no answer stands in {% generation %} of the chat "
                "template; give a template that marks them",
                stacklevel=3,
            )
        if options.get("return_mm_token_type_ids"):
            masks["mm_token_type_ids"] = [row == guard.image_token_id for row in rows]
        for name, mask in masks.items():
            inputs[name] = as_kind(how.pad(mask, 0), options.get("return_tensors"))
        if options.get("return_text_replacement_offsets"):
            inputs["text_replacement_offsets"] = [
                _replacements(text.text, guard, num_image_tokens) for text in texts
            ]
        return inputs


def _kept(
    ids: NDArray[np.int32],
    guard: GuardedTokenizer,
    how: Layout,
    *,
    num_image_tokens: int,
    most: int | None,
) -> NDArray[np.int32]:
    """Return which of the ids a prompt is made of, those of pictures repeated.

    Raises:
        PromptError: It is too long, or pictures would be cut.
    """
    image_id, num_images = guard.image_token_id, int((ids == guard.image_token_id).sum())
    limit = most if how.most is None else None
    if how.most is not None and num_images * num_image_tokens > how.most:
        raise _cut_pictures(how.most, num_images * num_image_tokens)
    expanded = expand(ids, image_id, num_image_tokens, most=limit)
    places = np.repeat(
        np.arange(len(ids), dtype=np.int32), np.where(ids == image_id, num_image_tokens, 1)
    )
    bos = guard.named_tokens.get("bos_token")
    num_leading = int(bos is not None and ids[:1].tolist() == [guard.token_id(bos)])
    kept = np.concatenate(
        [places[:num_leading], places[how.cut(expanded, num_leading=num_leading)]]
    )
    if (num_left := int((ids[kept] == image_id).sum())) != num_images * num_image_tokens:
        raise _cut_pictures(len(kept), num_images * num_image_tokens - num_left)
    return kept


def _cut_pictures(most: int, num_cut: int) -> PromptError:
    return PromptError(
        "prompt_too_long",
        f"cut to {most} tokens a prompt would lose some of its {num_cut} image tokens, and its "
        "pictures would not fit it; raise max_length, or leave truncation out",
    )


def _marks(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Return 1 for every token that has a character in one of the spans, else 0."""
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    marked = np.zeros(len(starts), bool)
    for first, last in spans:
        marked |= (starts < last) & (ends > first)
    return marked.astype(np.int64)


def _replacements(
    text: str, guard: GuardedTokenizer, num_image_tokens: int
) -> list[dict[str, Any]]:
    """Return where the pictures of a text lie before and after their tokens are repeated."""
    token = guard.named_tokens["image_token"]
    expanded = token * num_image_tokens
    found, start, shift = [], 0, 0
    *pieces, _ = text.split(guard.aliases[token])
    for piece in pieces:
        start += len(guard.reveal(piece))
        end = start + len(token)
        span, new = (start, end), (start + shift, start + shift + len(expanded))
        found.append(
            {"type": "image", "span": span, "new_span": new, "text": token, "replacement": expanded}
        )
        start, shift = end, shift + len(expanded) - len(token)
    return found
