"""Bytes and messages to requests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsvl_pipeline.errors import CheckpointError, PromptError
from dsvl_pipeline.model.config import read_model_config
from dsvl_pipeline.model.image_config import ImageConfig, read_image_config
from dsvl_pipeline.processor import chat, colours, decode, image
from dsvl_pipeline.processor.chat import ChatTemplate, Message
from dsvl_pipeline.processor.tokens import GuardedTokenizer
from dsvl_pipeline.records import ImageInput, Request, SamplingParams
from dsvl_pipeline.wording import amount

IMAGE_TOKEN = "<image_placeholder>"


class Processor:
    """A checkpoint's tokenizer, chat template and picture sizes. Torch-free.

    Attributes:
        tokenizer: Encodes and decodes.
        image_config: How pictures are made.
        image_token_id: The id that vision features replace.
        num_image_tokens: How many of them an image takes.
        max_prompt_tokens: Longest prompt that leaves room for a new token.
    """

    def __init__(
        self,
        *,
        tokenizer: GuardedTokenizer,
        template: str,
        image_config: ImageConfig,
        num_image_tokens: int,
        max_prompt_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_config = image_config
        self.image_token_id = tokenizer.image_token_id
        self.num_image_tokens = num_image_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self._template = ChatTemplate(template, tokenizer.hide, tokenizer.named_tokens)

    @classmethod
    def from_pretrained(cls, directory: Path) -> Processor:
        """Read a checkpoint directory, of any dialect.

        Raises:
            CheckpointError: A file is missing, broken, or of another checkpoint.
        """
        model = read_model_config(directory)
        template = chat.read_template(directory)
        tokenizer = GuardedTokenizer.from_directory(
            directory, IMAGE_TOKEN, adds_bos=template is None
        )
        if tokenizer.image_token_id != model.image_token_id:
            raise CheckpointError(
                f"{directory}: {IMAGE_TOKEN} has the id {tokenizer.image_token_id} in the "
                f"tokenizer, but config.json says {model.image_token_id}; one of the files is "
                "from another checkpoint"
            )
        return cls(
            tokenizer=tokenizer,
            template=template or chat.BUILT_IN_TEMPLATE,
            image_config=read_image_config(directory),
            num_image_tokens=model.num_image_tokens,
            max_prompt_tokens=model.text.max_positions - 1,
        )

    def image(
        self, source: bytes | Image.Image, *, source_digest: bytes | None = None
    ) -> ImageInput:
        """Prepare a picture for the towers.

        Args:
            source: A file's bytes, or a picture of any mode.
            source_digest: Of the bytes that a picture was decoded from, where the caller has it.

        Raises:
            ImageError: It cannot be decoded safely.
        """
        if isinstance(source, bytes):
            source_digest = hashlib.sha256(source, usedforsecurity=False).digest()[:16]
            picture = decode.decode(source)
        else:
            picture = colours.to_rgb(source)
        return image.image_input(picture, self.image_config, source_digest=source_digest)

    def prompt_text(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """Write a chat as text, with control tokens by their own names: for people to read."""
        rendered = self._template.render(messages, add_generation_prompt=add_generation_prompt)
        return self.tokenizer.reveal(rendered.text)

    def prompt_ids(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> NDArray[np.int32]:
        """Write a chat as ids, every image part as ``num_image_tokens`` image tokens.

        Nothing that a message says becomes a control token.

        Returns:
            ``int32[T]``.

        Raises:
            PromptError: Code ``prompt_malformed``, ``prompt_template`` or ``prompt_too_long``.
        """
        rendered = self._template.render(messages, add_generation_prompt=add_generation_prompt)
        prompt_ids = self.expand(self.tokenizer.encode(rendered.text))
        wanted = chat.count_images(messages)
        found = int(np.count_nonzero(prompt_ids == self.image_token_id)) // self.num_image_tokens
        if found != wanted:
            raise PromptError(
                "prompt_template",
                f"the messages hold {amount(wanted, 'image part')}, but the checkpoint's chat "
                f"template wrote {amount(found, 'image placeholder')}; put images where it expects "
                "them, in a user's message",
            )
        return prompt_ids

    def draft_ids(self, text: str, *, most: int) -> NDArray[np.int32]:
        """Write a text that an answer may resemble as ids, for `Request.draft_ids`.

        Args:
            text: From anywhere: nothing in it becomes a control token.
            most: Ids kept.

        Returns:
            ``int32[K]``.
        """
        return self.tokenizer.encode_text(text.strip())[:most]

    def expand(self, token_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Repeat every image token ``num_image_tokens`` times.

        Raises:
            PromptError: Code ``prompt_too_long``.
        """
        return expand(
            token_ids, self.image_token_id, self.num_image_tokens, most=self.max_prompt_tokens
        )

    def request(
        self,
        request_id: str,
        messages: Sequence[Message],
        images: Sequence[bytes | Image.Image | ImageInput],
        sampling: SamplingParams,
    ) -> Request:
        """Build what the engine wants.

        Args:
            request_id: Kept; names the row in messages.
            messages: The chat, with an image part for each image.
            images: In the order of their parts. A picture asked about several times can be
                prepared once, by `image`.
            sampling: Kept.

        Raises:
            PromptError: As `prompt_ids`, or ``image_count`` where parts and images differ.
            ImageError: A picture cannot be decoded safely.
        """
        num_parts = chat.count_images(messages)
        if num_parts != len(images):
            raise PromptError(
                "image_count",
                f"row {request_id}: the text has {amount(num_parts, 'image placeholder')} but the "
                f"row lists {amount(len(images), 'image')}; add the other or remove one",
            )
        prompt_ids = self.prompt_ids(messages)  # before the pictures: it is the cheaper one to fail
        inputs = (x if isinstance(x, ImageInput) else self.image(x) for x in images)
        return Request(
            request_id=request_id, prompt_ids=prompt_ids, images=tuple(inputs), sampling=sampling
        )

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into text."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def expand(
    token_ids: NDArray[np.int32], image_token_id: int, num_image_tokens: int, *, most: int | None
) -> NDArray[np.int32]:
    """Repeat every image token ``num_image_tokens`` times.

    Raises:
        PromptError: Code ``prompt_too_long``: the result would have more than ``most`` tokens.
    """
    is_image = token_ids == image_token_id
    num_images = int(is_image.sum())
    # Counted before they are made: a manifest may name a million images in a row.
    num_tokens = len(token_ids) + num_images * (num_image_tokens - 1)
    if most is not None and num_tokens > most:
        raise PromptError(
            "prompt_too_long",
            f"the prompt takes {num_tokens} tokens ({num_image_tokens} for each of "
            f"{amount(num_images, 'image')}), but the model has "
            f"room for {most} and a first new one; shorten the text or use "
            "fewer images",
        )
    return np.repeat(token_ids, np.where(is_image, num_image_tokens, 1))
