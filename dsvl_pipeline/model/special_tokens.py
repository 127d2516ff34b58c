"""Which tokens a checkpoint's tokenizer calls special, from its JSON files. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.json_files import read_json, read_optional_json, token_ids

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """What the configs beside ``tokenizer.json`` say of special tokens.

    Attributes:
        named: Token by its role, e.g. ``eos_token``; only those that are set.
        others: Tokens without a role.
        adds_bos: Whether prompts begin with BOS; None where nothing is said.
    """

    named: Mapping[str, str]
    others: tuple[str, ...]
    adds_bos: bool | None


def read_special_tokens(directory: Path) -> SpecialTokens:
    """Read ``tokenizer_config.json`` and ``special_tokens_map.json``; both may be absent.

    Raises:
        CheckpointError: One of them is no JSON object, or lists tokens as neither list nor object.
    """
    config = {
        name: value
        for file in ("special_tokens_map.json", "tokenizer_config.json")
        for name, value in read_optional_json(directory / file).items()
        if value is not None
    }
    extra = config.get("extra_special_tokens") or []
    others = config.get("additional_special_tokens") or []
    named = {}
    if isinstance(extra, dict):  # name -> token, as transformers 4.5x writes it
        named = {name: _content(token) for name, token in extra.items()}
    elif extra:
        others = extra
    if not isinstance(others, list):
        raise CheckpointError(
            f"{directory}: the tokenizer's extra special tokens are {others!r:.80}; they must be "
            "a list of tokens or an object of name and token"
        )
    named |= {f"{role}_token": _content(config.get(f"{role}_token")) for role in _ROLES}
    adds_bos = config.get("add_bos_token")
    return SpecialTokens(
        named={name: token for name, token in named.items() if isinstance(token, str)},
        others=tuple(token for token in map(_content, others) if isinstance(token, str)),
        adds_bos=None if adds_bos is None else bool(adds_bos),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids of special tokens.

    Attributes:
        eos: The tokenizer's end of sentence; None where it names none that it has.
        all: Every special token; None without a ``tokenizer.json``, which alone could tell.
    """

    eos: int | None
    all: frozenset[int] | None


def read_special_ids(directory: Path) -> SpecialIds:
    """Return the ids that a tokenizer calls special.

    Raises:
        CheckpointError: A file is broken.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        return SpecialIds(eos=None, all=None)
    spec, tokens = read_json(path), read_special_tokens(directory)
    ids = token_ids(spec)
    special = {int(token["id"]) for token in spec.get("added_tokens") or () if is_control(token)}
    special |= {ids[token] for token in (*tokens.named.values(), *tokens.others) if token in ids}
    flags = read_optional_json(directory / "tokenizer_config.json").get("added_tokens_decoder")
    special |= {int(index) for index, token in (flags or {}).items() if token.get("special")}
    return SpecialIds(eos=ids.get(tokens.named.get("eos_token", "")), all=frozenset(special))


def is_control(added_token: Mapping[str, Any]) -> bool:
    """Return whether an added token is more than a letter.

    The released tokenizers list single letters (ü, ö, ø ...) as added tokens that are not special:
    vocabulary, which the reference finds in ordinary text and the model knows.
    """
    return bool(added_token["special"]) or len(added_token["content"]) > 1


def _content(token: Any) -> Any:
    """Return the text of a token that is written as such or as an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token
