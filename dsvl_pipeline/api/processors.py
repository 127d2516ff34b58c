"""The public processors, over the torch-free one.

Letters: ``B`` prompts, ``T`` tokens of the longest, ``N`` images of all prompts, ``S`` edge of a
picture in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline import hub
from dsvl_pipeline.api.config import read_config
from dsvl_pipeline.api.inputs import ImageSource, ModelInputs, TensorKind, flatten, load, stack
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.image_config import ImageConfig, TowerImageConfig, read_image_config
from dsvl_pipeline.processor import chat
from dsvl_pipeline.processor.image import image_input
from dsvl_pipeline.processor.processor import IMAGE_TOKEN, Processor
from dsvl_pipeline.records import Pixels
from dsvl_pipeline.wording import amount


class DeepseekVLImageProcessor:
    """Pictures to pixel values."""

    is_hybrid: ClassVar[bool] = False

    def __init__(self, config: ImageConfig) -> None:
        self.config = config

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Read a directory's or hub id's image processor config."""
        directory = hub.resolve(str(name), revision)
        read_config(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__)
        return cls(read_image_config(directory))

    def __call__(
        self,
        images: ImageSource | Sequence[Any],
        *,
        return_tensors: TensorKind | None = None,
    ) -> ModelInputs:
        """Prepare pictures.

        Args:
            images: One picture, or lists of them, however nested: paths, ``file://`` URLs, the
                bytes of a file, Pillow pictures or ``uint8[H, W, 3]``.
            return_tensors: Stack into tensors or arrays; None gives lists of arrays.

        Returns:
            ``pixel_values`` ``float32[N, 3, S, S]`` and, with two towers, the same of another
            size as ``high_res_pixel_values``.

        Raises:
            ImageError: A picture cannot be decoded.
        """
        made = [image_input(load(x), self.config) for x in flatten(images)]
        low, high = self.config.low_res, self.config.high_res
        values = {"pixel_values": [_normalise(one.low_res, low) for one in made]}
        if high is not None:
            values["high_res_pixel_values"] = [
                _normalise(one.high_res, high) for one in made if one.high_res is not None
            ]
        return ModelInputs({key: stack(found, return_tensors) for key, found in values.items()})


class DeepseekVLProcessor:
    """Chats, texts and pictures to a model's inputs, and ids back to text.

    Attributes:
        image_processor: Its part for pictures.
        image_token: What stands for a picture in a text.
        image_token_id: Its id.
        num_image_tokens: How many of them a picture becomes.
        pad_token_id: Fills shorter prompts, on their left.
    """

    is_hybrid: ClassVar[bool] = False
    image_token: ClassVar[str] = IMAGE_TOKEN

    def __init__(self, processor: Processor, pad_token_id: int) -> None:
        self._processor = processor
        kind = DeepseekVLHybridImageProcessor if self.is_hybrid else DeepseekVLImageProcessor
        self.image_processor = kind(processor.image_config)
        self.image_token_id = processor.image_token_id
        self.num_image_tokens = processor.num_image_tokens
        self.pad_token_id = pad_token_id

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Read a directory's or hub id's processor.

        Raises:
            CheckpointError: Its files are missing or broken, or it is of the other architecture.
        """
        directory = hub.resolve(str(name), revision)
        read_config(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__)
        processor = Processor.from_pretrained(directory)
        tokens = processor.tokenizer.named_tokens
        pad = tokens.get("pad_token") or tokens.get("eos_token")
        return cls(processor, 0 if pad is None else processor.tokenizer.token_id(pad))

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: TensorKind | None = "pt",
        padding: bool | Literal["longest"] = False,
        truncation: bool = False,
    ) -> Any:
        """Write one conversation, or a list of them, as the model wants to read it.

        Args:
            conversation: Messages, or a list of lists of messages. A message's content is a text
                or a list of parts: ``{"type": "text", "text": ...}``, ``{"type": "image", "url":
                path or file:// URL}`` or ``{"type": "image", "image": picture or path}``.
                Nothing a text says becomes a control token.
            add_generation_prompt: Whether the assistant's turn is opened at the end.
            tokenize: Whether ids are wanted rather than text.
            return_dict: Whether to return all inputs of the model rather than the ids alone.
            return_tensors: Kind of tensors; with any, several conversations are padded.
            padding: Pads lists as well.
            truncation: Accepted and without effect: a prompt too long for the model is an error.

        Returns:
            `ModelInputs` with ``input_ids`` and ``attention_mask`` ``int64[B, T]``, and what the
            image processor makes of the pictures; or the ids; or one text or a list of them.

        Raises:
            PromptError: Messages are malformed, or too long.
            ImageError: A picture cannot be decoded.
        """
        is_batch = not isinstance(conversation[0], Mapping)
        split = [_split(one) for one in (conversation if is_batch else [conversation])]
        wanted = {"add_generation_prompt": add_generation_prompt}
        if not tokenize:
            texts = [self._processor.prompt_text(messages, **wanted) for messages, _ in split]
            return texts if is_batch else texts[0]
        prompts = [self._processor.prompt_ids(messages, **wanted) for messages, _ in split]
        for messages, sources in split:
            _check_count(messages, sources)
        images = [source for _, sources in split for source in sources]
        inputs = self._inputs(prompts, images, return_tensors, is_padded=bool(padding))
        return inputs if return_dict else inputs["input_ids"]

    def __call__(
        self,
        images: ImageSource | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: TensorKind | None = "pt",
        padding: bool | Literal["longest"] = False,
        truncation: bool = False,
    ) -> ModelInputs:
        """Prepare text that is already written as a chat, and its pictures.

        Args:
            images: As for the image processor, in the order of their placeholders.
            text: Trusted: control tokens that it names are control tokens.
            return_tensors: As in `apply_chat_template`; so are the others.
            padding: Pads lists as well.
            truncation: Accepted and without effect.

        Raises:
            PromptError: Placeholders and pictures differ in number, or a text is too long.
            ImageError: A picture cannot be decoded.
        """
        sources = [] if images is None else flatten(images)
        if text is None:
            return self.image_processor(sources, return_tensors=return_tensors)
        tokenizer = self._processor.tokenizer
        texts = [text] if isinstance(text, str) else text
        ids = [tokenizer.encode(tokenizer.hide(one)) for one in texts]
        num_placeholders = sum(int((one == self.image_token_id).sum()) for one in ids)
        if num_placeholders != len(sources):
            raise PromptError(
                "image_count",
                f"the text has {amount(num_placeholders, 'image placeholder')} "
                f"({self.image_token}) but {amount(len(sources), 'image')} given; add the others "
                "or remove some",
            )
        prompts = [self._processor.expand(one) for one in ids]
        return self._inputs(prompts, sources, return_tensors, is_padded=bool(padding))

    def decode(
        self,
        token_ids: Any,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str | list[str]:
        """Turn one prompt's or answer's ids into text, or the rows of several into texts.

        Args:
            token_ids: An id, or a list, array or tensor of ids, or of rows of ids.
            skip_special_tokens: Whether to leave out control tokens.
            clean_up_tokenization_spaces: Accepted and without effect, as upstream: for the
                byte-level tokenizers of these models it would only destroy spaces.
        """
        if isinstance(token_ids, Tensor | np.ndarray):
            token_ids = token_ids.tolist()
        if isinstance(token_ids, Sequence) and any(map(_is_row, token_ids)):
            return self.batch_decode(token_ids, skip_special_tokens=skip_special_tokens)
        ids = np.ravel(token_ids).tolist()
        return self._processor.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self,
        sequences: Any,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[str]:
        """Turn the rows of a tensor, or a list of id lists, into texts."""
        texts: list[str] = []
        for row in sequences if len(sequences) and _is_row(sequences[0]) else [sequences]:
            text = self.decode(row, skip_special_tokens=skip_special_tokens)
            texts += [text] if isinstance(text, str) else text
        return texts

    def _inputs(
        self,
        prompts: Sequence[NDArray[np.int32]],
        images: Sequence[Any],
        return_tensors: TensorKind | None,
        *,
        is_padded: bool,
    ) -> ModelInputs:
        width = max(map(len, prompts)) if is_padded or return_tensors else 0
        spare = [max(width - len(prompt), 0) for prompt in prompts]
        rows = {
            # left, so that every prompt ends where its answer begins
            "input_ids": [
                np.pad(prompt.astype(np.int64), (n, 0), constant_values=self.pad_token_id)
                for prompt, n in zip(prompts, spare, strict=True)
            ],
            "attention_mask": [
                np.pad(np.ones(len(prompt), np.int64), (n, 0))
                for prompt, n in zip(prompts, spare, strict=True)
            ],
        }
        inputs = ModelInputs({key: stack(found, return_tensors) for key, found in rows.items()})
        if return_tensors is None:
            inputs.update({key: [row.tolist() for row in found] for key, found in rows.items()})
        if images:
            inputs.update(self.image_processor(images, return_tensors=return_tensors))
        return inputs


# The names of the reference documentation: what differs is which checkpoints they take.
class DeepseekVLHybridImageProcessor(DeepseekVLImageProcessor):
    """Pictures to pixel values for two towers."""

    is_hybrid = True


class DeepseekVLHybridProcessor(DeepseekVLProcessor):
    """Chats, texts and pictures to the inputs of a model with two towers."""

    is_hybrid = True


def _is_row(ids: Any) -> bool:
    return isinstance(ids, Sequence) or bool(np.ndim(ids))


def _split(conversation: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Take the pictures out of a conversation's messages, and leave their places."""
    messages: list[dict[str, Any]] = []
    sources: list[Any] = []
    for message in conversation:
        content = message.get("content")
        if isinstance(content, list | tuple):
            parts = []
            for part in content:
                if isinstance(part, Mapping) and part.get("type") == "image":
                    found = [part[key] for key in ("image", "url", "path") if key in part]
                    sources += found
                    part = {"type": "image"}
                parts.append(part)
            content = parts
        messages.append({"role": message.get("role"), "content": content})
    return messages, sources


def _check_count(messages: Sequence[chat.Message], sources: Sequence[Any]) -> None:
    num_parts = chat.count_images(messages)
    if num_parts != len(sources):
        raise PromptError(
            "image_count",
            f"a conversation has {amount(num_parts, 'image part')}, but names "
            f"{amount(len(sources), 'picture')}; "
            "give each part its own under 'url' or 'image'",
        )


def _normalise(pixels: Pixels, tower: TowerImageConfig) -> NDArray[np.float32]:
    table = tower.table
    return np.stack([table[channel][pixels[..., channel]] for channel in range(3)])
