"""A checkpoint's tokenizer, with control tokens that no text can spell.

``tokenizer.json`` names control tokens by ordinary strings (``<image_placeholder>``, the end of
sentence), and finds them wherever a text holds these strings, even where they only arise after
normalisation or when two texts are joined. So the tokenizer is loaded with its control tokens
renamed: same ids, flags and order, but spelled by random private-use characters, drawn anew in each
process. The chat template is given the new spellings (`chat.py`); every other text, whatever it
holds, is text. Nothing else changes, hence the ids of harmless prompts are those of the original
tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.json_files import read_json
from dsvl_pipeline.model.special_tokens import is_control, read_special_tokens
from dsvl_pipeline.processor.template_language import private_spelling


class GuardedTokenizer:
    """Encodes rendered chats and decodes completions.

    Attributes:
        spec: Contents of ``tokenizer.json``, with all tokens that the configs add.
        aliases: Control token to the private spelling that stands for it in rendered chats.
        named_tokens: Control tokens by their role, e.g. ``bos_token``; only those that are set.
    """

    def __init__(
        self, spec: dict[str, Any], named_tokens: Mapping[str, str], *, adds_bos: bool = False
    ) -> None:
        """Guard a tokenizer.

        Args:
            spec: Contents of ``tokenizer.json``.
            named_tokens: As the attribute; each must be an added token of ``spec``.
            adds_bos: Whether prompts begin with BOS even if ``spec`` does not say so.
        """
        bos = named_tokens.get("bos_token") if adds_bos else None
        self._leading_id = None if bos is None else _id(spec, bos)
        self.named_tokens = dict(named_tokens)
        spec |= {"truncation": None, "padding": None}
        self.spec = spec
        control = {t["content"]: t["id"] for t in spec["added_tokens"] if is_control(t)}
        self.aliases = {token: private_spelling() for token in control}
        self._tokens = {alias: token for token, alias in self.aliases.items()}
        self._backend = Tokenizer.from_str(json.dumps(_renamed(spec, self.aliases)))
        for token, alias in self.aliases.items():
            found = self._backend.encode(alias, add_special_tokens=False).ids
            if found != [control[token]]:
                raise CheckpointError(
                    f"the tokenizer encodes its token {token!r} as {found}, but tokenizer.json "
                    f"gives it the id {control[token]}; the file is damaged"
                )

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        image_token: str,
        *,
        adds_bos: bool = False,
        other_tokens: Mapping[str, str] | None = None,
    ) -> GuardedTokenizer:
        """Load a checkpoint's tokenizer.

        Args:
            directory: Holds ``tokenizer.json`` and, as a rule, ``tokenizer_config.json``.
            image_token: Added as a control token where ``tokenizer.json`` has none such.
            adds_bos: Whether prompts begin with BOS where neither file says.
            other_tokens: Control tokens by their role, in place of those of the files.

        Raises:
            CheckpointError: A file is missing or broken.
        """
        path = directory / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(
                f"{path} does not exist; fetch it, or save the tokenizer with a fast tokenizer "
                "class of transformers"
            )
        spec = read_json(path)
        tokens = read_special_tokens(directory)
        named = {**tokens.named, "image_token": image_token, **(other_tokens or {})}
        add_missing(spec, [*named.values(), *tokens.others])
        return cls(spec, named, adds_bos=adds_bos if tokens.adds_bos is None else tokens.adds_bos)

    @property
    def adds_bos(self) -> bool:
        """Whether BOS is added because of a flag, and not by ``tokenizer.json``."""
        return self._leading_id is not None

    @property
    def image_token_id(self) -> int:
        """Id of the token that vision features replace."""
        return self.token_id(self.named_tokens["image_token"])

    def token_id(self, token: str) -> int:
        """Id of a control token."""
        return _id(self.spec, token)

    @cached_property
    def plain(self) -> Tokenizer:
        """The tokenizer as the checkpoint has it: finds control tokens in any text."""
        return Tokenizer.from_str(json.dumps(self.spec))

    def encode(self, rendered: str, *, adds_special: bool = True) -> NDArray[np.int32]:
        """Encode a chat in which aliases stand for control tokens.

        Unless told otherwise special tokens are added at its ends as the checkpoint's tokenizer
        does, if it does not start with the beginning of sequence already.
        """
        return self.encode_with_offsets(rendered, adds_special=adds_special)[0]

    def encode_with_offsets(
        self, rendered: str, *, adds_special: bool = True
    ) -> tuple[NDArray[np.int32], list[tuple[int, int]]]:
        """Encode as `encode` does; of each token say also which characters it is.

        The pairs are the first character and the one behind the last.
        """
        bos = self.aliases.get(self.named_tokens.get("bos_token", ""))
        has_bos = bos is not None and rendered.startswith(bos)
        found = self._backend.encode(rendered, add_special_tokens=adds_special and not has_bos)
        ids, offsets = found.ids, found.offsets
        # Older tokenizer.json leave it to a flag of tokenizer_config.json.
        if adds_special and self._leading_id is not None and ids[:1] != [self._leading_id]:
            ids.insert(0, self._leading_id)
            offsets.insert(0, (0, 0))
        return np.array(ids, dtype=np.int32), offsets

    def encode_text(self, text: str) -> NDArray[np.int32]:
        """Encode plain text, without special tokens at its ends or within it."""
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def reveal(self, rendered: str) -> str:
        """Put the control tokens' own names in place of the aliases."""
        return _substitute(rendered, self._tokens)

    def hide(self, text: str) -> str:
        """Put aliases in place of the control tokens' names: for trusted text only."""
        return _substitute(text, self.aliases)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn ids into text; ids unknown to the tokenizer are dropped."""
        text: str = self.plain.decode(
            [int(i) for i in ids], skip_special_tokens=skip_special_tokens
        )
        return text


def _renamed(spec: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A copy of ``tokenizer.json`` in which tokens have other names.

    The model's own vocabulary is part of it: Unigram models, and BPE with ``ignore_merges``, find
    its entries in plain text.
    """
    model = dict(spec["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocab.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [
            [left, right] for left, right in pairs if not {left, right, left + right} & names.keys()
        ]
    added = [{**t, "content": names.get(t["content"], t["content"])} for t in spec["added_tokens"]]
    return {**spec, "model": model, "added_tokens": added}


def add_missing(spec: dict[str, Any], tokens: Sequence[str]) -> None:
    """Append special tokens that only the configs name, as the reference does on loading."""
    spec["added_tokens"] = list(spec.get("added_tokens") or ())
    held = {token["content"] for token in spec["added_tokens"]}
    vocab = spec["model"]["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    next_id = 1 + max([*ids.values(), *(token["id"] for token in spec["added_tokens"])])
    for token in tokens:
        if token in held:
            continue
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        found = ids.get(token, next_id)
        next_id += found == next_id
        held.add(token)
        spec["added_tokens"].append({"id": found, "content": token, **flags, "special": True})


def _id(spec: Mapping[str, Any], token: str) -> int:
    return next(int(t["id"]) for t in spec["added_tokens"] if t["content"] == token)


def _substitute(text: str, names: Mapping[str, str]) -> str:
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
    return re.sub(pattern, lambda match: names[match[0]], text)
