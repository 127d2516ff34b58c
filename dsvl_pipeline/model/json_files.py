"""A checkpoint's JSON files, and the few shapes in which they write a value. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import CheckpointError, UnreadableCheckpointError

Triple = tuple[float, float, float]


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        UnreadableCheckpointError: It does not exist, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableCheckpointError(
            f"{path} does not exist; a checkpoint is a directory with config.json, the "
            f"tokenizer's files and safetensors"
        ) from error
    except (OSError, RecursionError, ValueError) as error:
        raise UnreadableCheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnreadableCheckpointError(
            f"{path} holds a {type(found).__name__}; it must be a JSON object"
        )
    return found


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file counts as an empty one.

    Raises:
        CheckpointError: It is not a JSON object.
    """
    return read_json(path) if path.exists() else {}


@contextmanager
def reading(where: Path | str) -> Iterator[None]:
    """Turn whatever a value of a wrong kind makes stumble into a CheckpointError."""
    try:
        yield
    except CheckpointError:  # a ValueError as well, but it says all already
        raise
    except (AttributeError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{where}: a value in one of its configs is of a wrong kind "
            f"({type(error).__name__}: {error}); correct it, or fetch the files again"
        ) from error


def get(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """Give the value of a key; null counts as absent, as it does in transformers."""
    value = config.get(key)
    return default if value is None else value


def require(config: Mapping[str, Any], key: str, wanted: object, where: str) -> None:
    """Refuse a value that the released checkpoints do not have; an absent one is as wanted."""
    found = get(config, key, wanted)
    if found != wanted:
        raise CheckpointError(f"{where} has {key}={found!r}; only {wanted!r} can be run")


def side(size: Any, default: int, where: str) -> int:
    """Give the edge of a square that is written as a number, a pair or height and width."""
    match size:
        case None:
            return default
        case int():
            return size
        case [int(height), int(width)] | {"height": int(height), "width": int(width)} if (
            height == width
        ):
            return height
    raise CheckpointError(f"{where} has the size {size!r}; it must be a square")


def triple(values: Any) -> Triple:
    """Give one value per channel; a single number stands for all three."""
    if isinstance(values, int | float):
        return (values, values, values)
    red, green, blue = values
    return (red, green, blue)


def token_id(directory: Path, token: str) -> int | None:
    """Give the id of a token in ``tokenizer.json``, or None where file or token is missing."""
    return token_ids(read_optional_json(directory / "tokenizer.json")).get(token)


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Give the id of every token, those that were added included.

    Args:
        tokenizer: Contents of ``tokenizer.json``; Unigram models list pairs of piece and score.
    """
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    added = tokenizer.get("added_tokens") or ()
    return {**ids, **{token["content"]: int(token["id"]) for token in added}}
