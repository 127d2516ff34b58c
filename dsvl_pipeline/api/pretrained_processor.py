"""The parts of a processor, and how they are read and saved, as the reference does.

Source of the behaviour: ``ProcessorMixin``, transformers 5.23.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from dsvl_pipeline.api.image_processor import (
    DeepseekVLHybridImageProcessor,
    DeepseekVLImageProcessor,
)
from dsvl_pipeline.api.locating import FILE_OPTIONS, Name, locate
from dsvl_pipeline.api.processor_files import check_family, read_limits
from dsvl_pipeline.api.processor_options import IMAGE, TEXT
from dsvl_pipeline.api.prompts import Encoder
from dsvl_pipeline.api.tokenizer import Tokenizer, pad_id_of, save_templates
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.image_config import read_image_processor_config
from dsvl_pipeline.processor import chat
from dsvl_pipeline.processor.tokens import GuardedTokenizer

_TOKENIZER_SETTINGS = ("padding_side", "truncation_side", "model_max_length")


class PretrainedProcessor:
    """An image processor and a tokenizer, and what else prompts need.

    Attributes:
        image_processor: Its part for pictures.
        tokenizer: Its part for texts.
        chat_template: Jinja source, or several by name.
        num_image_tokens: How many image tokens a picture becomes.
        allow_http: Whether web addresses of pictures are fetched. Not saved.
        max_prompt_tokens: Longer prompts are refused; None where that is not known.
    """

    is_hybrid: ClassVar[bool] = False

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | dict[str, str] | None = None,
        num_image_tokens: int = 576,
        *,
        allow_http: bool = False,
        max_prompt_tokens: int | None = None,
    ) -> None:
        """Put a processor together.

        Args:
            image_processor: Ours, or one of transformers.
            tokenizer: A `Tokenizer`, or one of transformers.
            chat_template: As the attribute, and so are the others.
            num_image_tokens: 576 in the released checkpoints.
            allow_http: Only public addresses ever are.
            max_prompt_tokens: `from_pretrained` reads it from ``config.json``.

        Raises:
            TypeError: A part is something else.
        """
        for name, part, method in (
            ("image_processor", image_processor, "preprocess"),
            ("tokenizer", tokenizer, "batch_decode"),
        ):
            if not hasattr(part, method):
                raise TypeError(f"{name} is a {type(part).__name__}, which has no {method}()")
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.num_image_tokens = num_image_tokens
        self.allow_http = allow_http
        self.max_prompt_tokens = max_prompt_tokens
        self._encoder = Encoder()

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of its parts."""
        return ["image_processor", "tokenizer"]

    @classmethod
    def from_pretrained(cls, name: Name, **options: Any) -> Self:
        """Read a directory's or hub id's processor. No weights are downloaded.

        Args:
            name: A directory, a hub id, or ``demo``.
            options: Those of `locate`; ``allow_http``; ``image_processor`` and ``tokenizer``
                in place of those of the files; ``chat_template`` and ``num_image_tokens``; those
                of the image processor and of the tokenizer. Others are ignored.

        Raises:
            CheckpointError: Its files are missing or broken, or it is of the other architecture.
        """
        where = {key: options.pop(key) for key in FILE_OPTIONS & options.keys()}
        directory = locate(name, needs="processor", **where)
        check_family(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__)
        limits = read_limits(directory)
        image_processor, tokenizer = cls._read_parts(directory, options)
        made = cls(
            image_processor,
            tokenizer,
            options.get("chat_template")
            or chat.read_templates(directory)
            or chat.BUILT_IN_TEMPLATE,
            options.get("num_image_tokens", limits.num_image_tokens),
            allow_http=bool(options.get("allow_http", False)),
            max_prompt_tokens=limits.max_prompt_tokens,
        )
        if limits.image_token_id not in (None, made.image_token_id):
            raise CheckpointError(
                f"{directory}: {made.image_token} has the id {made.image_token_id} in the "
                f"tokenizer, but config.json says {limits.image_token_id}; one of the files is "
                "from another checkpoint"
            )
        return made

    @classmethod
    def _read_parts(cls, directory: Path, options: Mapping[str, Any]) -> tuple[Any, Any]:
        image_processor, tokenizer = (options.get(part) for part in cls.get_attributes())
        if image_processor is None:
            kind = DeepseekVLHybridImageProcessor if cls.is_hybrid else DeepseekVLImageProcessor
            settings = read_image_processor_config(directory)
            names = (*IMAGE, "allow_http")
            changes = {name: options[name] for name in names if name in options}
            image_processor = kind.from_dict(settings, **changes)
        if tokenizer is None:
            kept = (*TEXT, *_TOKENIZER_SETTINGS)
            changes = {
                key: options[key] for key in options if key in kept or key.endswith("_token")
            }
            changes.pop("token", None)
            tokenizer = Tokenizer.from_directory(directory, changes)
        return image_processor, tokenizer

    @property
    def image_token(self) -> str:
        """What stands for a picture in a text."""
        return self._guard.named_tokens["image_token"]

    @property
    def image_token_id(self) -> int:
        """Its id."""
        return self._guard.image_token_id

    @property
    def pad_token_id(self) -> int:
        """What fills shorter prompts."""
        return pad_id_of(self.tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        """The keys of what a call gives."""
        return [*self.image_processor.model_input_names, *self.tokenizer.model_input_names]

    @property
    def _guard(self) -> GuardedTokenizer:
        return self._encoder.guard(self.tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``processor_config.json`` holds."""
        return {
            "image_processor": self.image_processor.to_dict(),
            "num_image_tokens": self.num_image_tokens,
            "processor_class": type(self).__name__,
        }

    def to_json_string(self) -> str:
        """Return the same as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: Name) -> None:
        """Write the same into a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, save_directory: Name, push_to_hub: bool = False) -> list[str]:
        """Write all files of a processor, as transformers reads them too.

        Returns:
            The path of ``processor_config.json``, in a list.

        Raises:
            NotImplementedError: With ``push_to_hub``.
            ValueError: A chat template's name leads out of the directory.
        """
        if push_to_hub:
            raise NotImplementedError(
                "push_to_hub cannot be done here; use save_pretrained, then `hf upload`"
            )
        os.makedirs(save_directory, exist_ok=True)
        self.tokenizer.save_pretrained(save_directory)
        save_templates(Path(save_directory), self.chat_template)
        file = Path(save_directory) / "processor_config.json"
        self.to_json_file(file)
        return [str(file)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"
