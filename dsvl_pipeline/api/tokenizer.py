"""A checkpoint's tokenizer under the names of transformers.

What it is given is trusted: control tokens that a text names are control tokens. A processor's
chats are encoded by its guard, for which they are text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from torch import Tensor

from dsvl_pipeline.api.inputs import ModelInputs
from dsvl_pipeline.api.locating import FILE_OPTIONS, Name, locate
from dsvl_pipeline.api.text_options import TextOptions, layout, text_inputs
from dsvl_pipeline.model.json_files import read_optional_json, token_ids
from dsvl_pipeline.processor import chat
from dsvl_pipeline.processor.processor import IMAGE_TOKEN
from dsvl_pipeline.processor.tokens import GuardedTokenizer, add_missing

_ENDLESS = int(1e30)  # as upstream where no file says how long prompts may be
_KEPT_AS_THEY_ARE = ("padding_side", "truncation_side", "model_max_length")


class Tokenizer:
    """Texts to ids and back.

    ``bos_token``, ``eos_token``, ``pad_token``, ``image_token`` and the like are attributes, and
    so are their ids, as ``eos_token_id``. They may be set, to tokens of the vocabulary.

    Attributes:
        guard: The tokenizer for text that is not trusted.
        chat_template: The chat template, or several by name.
        padding_side: Where shorter prompts are padded.
        truncation_side: Where longer prompts are cut.
        model_max_length: Most tokens of a prompt, where ``max_length`` says nothing else.
        init_kwargs: What ``tokenizer_config.json`` says, and options that it was loaded with.
    """

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    is_fast: ClassVar[bool] = True

    def __init__(
        self,
        guard: GuardedTokenizer,
        settings: Mapping[str, Any],
        *,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        self.guard = guard
        self.init_kwargs = dict(settings)
        self.chat_template = chat_template
        # left, so that every prompt ends where its answer begins
        self.padding_side = settings.get("padding_side") or "left"
        self.truncation_side = settings.get("truncation_side") or "right"
        self.model_max_length = settings.get("model_max_length") or _ENDLESS

    @classmethod
    def from_pretrained(cls, name: Name, **options: Any) -> Self:
        """Read a directory's or hub id's tokenizer. No weights are downloaded.

        Args:
            name: Holds ``tokenizer.json``.
            options: Those of `locate`; ``padding_side``, ``truncation_side``,
                ``model_max_length``; tokens as ``pad_token``, which are added where the
                vocabulary has none such. Others are kept as defaults of the call.

        Raises:
            CheckpointError: A file is missing or broken.
        """
        where = {key: options.pop(key) for key in FILE_OPTIONS & options.keys()}
        return cls.from_directory(locate(name, needs="processor", **where), options)

    @classmethod
    def from_directory(cls, directory: Path, options: Mapping[str, Any]) -> Self:
        """Read the tokenizer that lies in a directory here, see `from_pretrained`."""
        tokens = {
            key: str(value)
            for key, value in options.items()
            if key.endswith("_token") and isinstance(value, str)
        }
        templates = chat.read_templates(directory)
        guard = GuardedTokenizer.from_directory(
            directory, IMAGE_TOKEN, adds_bos=templates is None, other_tokens=tokens
        )
        settings = read_optional_json(directory / "tokenizer_config.json") | dict(options)
        return cls(guard, settings, chat_template=templates)

    def __getattr__(self, name: str) -> Any:
        guard = self.__dict__.get("guard")
        if guard is not None and name.endswith("_token"):
            return guard.named_tokens.get(name)
        if guard is not None and name.endswith("_token_id"):
            token = guard.named_tokens.get(name.removesuffix("_id"))
            return None if token is None else self.convert_tokens_to_ids(token)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.endswith("_token_id"):
            name, value = name.removesuffix("_id"), self.convert_ids_to_tokens(int(value))
        if not name.endswith("_token"):
            return super().__setattr__(name, value)
        if value is None:
            self.guard.named_tokens.pop(name, None)
            return None
        if str(value) not in self._ids:
            raise ValueError(
                f"{name} is {str(value)!r}, which the vocabulary does not have; give it to "
                "from_pretrained, which adds it"
            )
        self.guard.named_tokens[name] = str(value)
        return None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return token_ids(self.guard.spec)

    def __len__(self) -> int:
        return self.guard.plain.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Tokens without those that were added."""
        return self.guard.plain.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        return self.guard.plain.get_vocab(with_added_tokens=True)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Control tokens by their role."""
        return dict(self.guard.named_tokens)

    @property
    def all_special_tokens(self) -> list[str]:
        """Control tokens that have a role."""
        return list(dict.fromkeys(self.guard.named_tokens.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return [self._ids[token] for token in self.all_special_tokens]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or of several; of an unknown one that of ``unk_token``."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self._ids.get(self.unk_token))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or of several."""
        if np.ndim(ids) == 0:
            return self.guard.plain.id_to_token(int(ids))
        special = self.all_special_ids if skip_special_tokens else []
        return [self.convert_ids_to_tokens(one) for one in ids if int(one) not in special]

    def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[str]:
        """Return a text's tokens."""
        return self.guard.plain.encode(text, add_special_tokens=add_special_tokens).tokens

    def encode(self, text: str, **options: Unpack[TextOptions]) -> Any:
        """Return the ids of one text: a list, or ``int64[1, T]`` with ``return_tensors``."""
        ids = self(text if options.get("return_tensors") is None else [text], **options)
        return ids["input_ids"]

    def __call__(self, text: str | Sequence[str], **options: Unpack[TextOptions]) -> ModelInputs:
        """Encode one text or several.

        Args:
            text: Trusted: control tokens that it names are control tokens.
            options: What they leave open is as the tokenizer was loaded with.

        Returns:
            ``input_ids`` and ``attention_mask``: of one text lists, of several lists of lists;
            with ``return_tensors`` ``int64[B, T]``.

        Raises:
            ValueError: An option has a value that it cannot have, or ``text`` is no text.
            TypeError: There is no such option.
        """
        if unknown := sorted(options.keys() - TextOptions.__annotations__.keys()):
            raise TypeError(f"{type(self).__name__} has no option {unknown[0]!r}")
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(one, str) for one in texts):
            raise ValueError("the text must be a string or a list of strings")
        how = layout(options, self)
        adds = options.get("add_special_tokens", True)
        rows = []
        for one in texts:
            ids = self.guard.encode(self.guard.hide(one), adds_special=adds)
            num_leading = int(adds and ids[:1].tolist() == [self.bos_token_id])
            rows.append(
                np.concatenate([ids[:num_leading], ids[how.cut(ids, num_leading=num_leading)]])
            )
        pad_id = pad_id_of(self)
        inputs = text_inputs(rows, options, how, pad_id=pad_id)
        if isinstance(text, str) and options.get("return_tensors") is None:
            return ModelInputs({name: found[0] for name, found in inputs.items()})
        return inputs

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
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
        return self.guard.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
    ) -> list[str]:
        """Turn the rows of a tensor, or a list of id lists, into texts."""
        texts: list[str] = []
        for row in sequences if len(sequences) and _is_row(sequences[0]) else [sequences]:
            text = self.decode(row, skip_special_tokens=skip_special_tokens)
            texts += [text] if isinstance(text, str) else text
        return texts

    def save_pretrained(self, save_directory: Name) -> tuple[str, ...]:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat template.

        Returns:
            The paths of what was written.
        """
        os.makedirs(save_directory, exist_ok=True)
        directory = Path(save_directory)
        kept = {key: getattr(self, key) for key in _KEPT_AS_THEY_ARE}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{key: value for key, value in self.init_kwargs.items() if key != "chat_template"},
            **{key: None for key in self.init_kwargs if key.endswith("_token")},
            **kept,
            **self.guard.named_tokens,
        }
        if self.guard.adds_bos:
            settings["add_bos_token"] = True
        files = {"tokenizer.json": self.guard.spec, "tokenizer_config.json": settings}
        for file, found in files.items():
            text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
            (directory / file).write_text(text, encoding="utf-8")
        written = [*files, *save_templates(directory, self.chat_template)]
        return tuple(str(directory / file) for file in written)


def pad_id_of(tokenizer: Any) -> int:
    """Return what fills shorter prompts; without a token for it the end of sequence, or 0."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(one) for one in ids if one is not None)


def guard_of(tokenizer: Any) -> GuardedTokenizer:
    """Return the tokenizer for text that is not trusted that belongs to one for text that is.

    Args:
        tokenizer: A `Tokenizer`, or a tokenizer of transformers.

    Raises:
        TypeError: It is neither, or one of transformers without a ``tokenizer.json``.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.guard
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(
            f"the tokenizer is a {type(tokenizer).__name__}; it must be a Tokenizer of "
            "dsvl_pipeline, or one of transformers that rests on tokenizers"
        )
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if token}
    named["image_token"] = getattr(tokenizer, "image_token", None) or IMAGE_TOKEN
    spec = json.loads(backend.to_str())
    named = {name: str(token) for name, token in named.items() if not isinstance(token, list)}
    add_missing(spec, list(named.values()))
    return GuardedTokenizer(spec, named)


def save_templates(directory: Path, templates: str | Mapping[str, str] | None) -> list[str]:
    """Write a chat template, or several, and return the files' names.

    Raises:
        ValueError: A name leads out of the directory.
    """
    if templates is None:
        return []
    named = {"default": templates} if isinstance(templates, str) else templates
    written = []
    for name, source in named.items():
        if name != Path(name).name or name in (".", "..", ""):
            raise ValueError(f"the chat template's name {name!r} is no plain file name")
        file = f"additional_chat_templates/{name}.jinja"
        file = "chat_template.jinja" if name == "default" else file
        (directory / file).parent.mkdir(exist_ok=True)
        (directory / file).write_text(source, encoding="utf-8")
        written.append(file)
    return written


def _is_row(ids: Any) -> bool:
    return isinstance(ids, Sequence) or bool(np.ndim(ids))
