"""The keys everything persistent hangs on (bottom layer: sources and table both import it).

Changing anything here makes every row of every existing table run again, or doubles it. The fixed
examples in ``tests/test_keys.py`` hold each function to the bytes it has always given.

Every digest is BLAKE2b with a personalisation of its own, so that digests of different kinds can
never be equal by construction, over fields that are prefixed with their lengths, so that no two
lists of fields share an encoding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

_DIGEST_BYTES = 16
_length = struct.Struct("<I").pack
_row_key_head = struct.Struct("<qIII").pack
# Copying a prepared state costs less than passing the personalisation for each of 10^9 rows.
_row_key_state = blake2b(digest_size=_DIGEST_BYTES, person=b"dsvl.row_key")
_shard_state = blake2b(digest_size=8, person=b"dsvl.shard")


def row_id_for(uris: Sequence[str], prompt: str | None, occurrence: int = 0) -> str:
    """Name a row that has no id column by what it asks.

    Args:
        uris: Its image URIs, in order.
        prompt: Its own prompt; None without a prompt column (not the same as an empty one).
        occurrence: How many equal rows came before it in its manifest file.
    """
    fields = [b"" if prompt is None else b"\x01" + _utf8(prompt), *map(_utf8, uris)]
    name = _digest(b"dsvl.row_id", fields).hex()
    return f"{name}-{occurrence}" if occurrence else name


def content_id_from(
    *,
    uri: str,
    sha256: str | None = None,
    etag: str | None = None,
    size: int | None = None,
    mtime_ns: int | None = None,
) -> bytes:
    """Identify content without reading it, by the strongest evidence there is.

    A sha256 counts alone, then an etag with the size, then size and modification time, then the
    URI. The URI goes into the last two only: files unpacked from one archive share their times,
    while an etag is the same wherever the object lies.

    Args:
        uri: Where the content lies, as the input names it.
        sha256: Hex digest from the manifest.
        etag: From the manifest or the listing, with or without its quotes.
        size: In bytes.
        mtime_ns: Nanoseconds since the epoch.
    """
    number = "" if size is None else str(size)
    if sha256 is not None:
        fields = ["sha256", sha256.lower()]
    elif etag is not None:
        fields = ["etag", etag.strip('"'), number]
    elif mtime_ns is not None:
        fields = ["mtime", uri, number, str(mtime_ns)]
    else:
        fields = ["uri", uri]
    return _digest(b"dsvl.content", map(_utf8, fields))


def content_id_of_many(content_ids: Sequence[bytes]) -> bytes:
    """Identify a row's content from that of its images, in order; one image counts as itself."""
    if len(content_ids) == 1:
        return content_ids[0]
    return _digest(b"dsvl.contents", content_ids)


def content_id_rendered(content_id: bytes, *, dpi: int, max_page_px: int) -> bytes:
    """Identify what the pages of a document look like: its content, and how they are rendered."""
    return _digest(b"dsvl.rendered", [content_id, _utf8(f"{dpi} {max_page_px}")])


@lru_cache(maxsize=1024)  # of a job's own prompts, asked of 10^9 rows
def prompt_digest(text: str, *, schema: str | None = None, regex: str | None = None) -> bytes:
    """Digest a rendered prompt with what its answer must satisfy, 16 bytes.

    Args:
        text: The prompt.
        schema: JSON schema, normalised (`dsvl_pipeline.job.grammar.normal_schema`).
        regex: Regular expression.
    """
    fields = [text]
    if schema is not None:
        fields += ["schema", schema]
    if regex is not None:
        fields += ["regex", regex]
    return _digest(b"dsvl.prompt", map(_utf8, fields))


def recipe_digest(mapping: Mapping[str, Any]) -> str:
    """Digest what changes results for every row, as 32 hex digits.

    Neither the order of the keys nor ``0`` against ``0.0`` matters.

    Args:
        mapping: Anything JSON can hold: weights digest, processor, decoding parameters, ...
    """
    text = json.dumps(
        _canonical(mapping),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return _digest(b"dsvl.recipe", [_utf8(text)]).hex()


def row_key(content_id: bytes, page_index: int | None, prompt_digest: bytes, recipe: str) -> bytes:
    """Identify an answer: equal keys, equal answer. 16 bytes.

    Args:
        content_id: Of the row, or of the document that the page belongs to.
        page_index: From 0; None for images.
        prompt_digest: Of the rendered prompt text.
        recipe: From `recipe_digest`.

    Raises:
        ValueError: The page index is negative.
    """
    if page_index is None:
        page_index = -1
    elif page_index < 0:
        raise ValueError(f"page_index is {page_index}; it must be 0 or more, or None for an image")
    recipe_bytes = recipe.encode()
    state = _row_key_state.copy()
    state.update(
        _row_key_head(page_index, len(content_id), len(prompt_digest), len(recipe_bytes))
        + content_id
        + prompt_digest
        + recipe_bytes
    )
    return state.digest()


def shard_of(row_id: str, num_shards: int) -> int:
    """Place a row, or a document with all its pages, in a shard from 0 to ``num_shards - 1``."""
    state = _shard_state.copy()
    state.update(_utf8(row_id))
    return int.from_bytes(state.digest(), "little") % num_shards


def _digest(person: bytes, fields: Iterable[bytes]) -> bytes:
    state = blake2b(digest_size=_DIGEST_BYTES, person=person)
    for field in fields:
        state.update(_length(len(field)))
        state.update(field)
    return state.digest()


def _utf8(text: str) -> bytes:
    # File names and JSON may hold lone surrogates; each must still have a key of its own.
    return text.encode("utf-8", "surrogatepass")


def _canonical(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(name): _canonical(item) for name, item in value.items()}
        case list() | tuple():
            return [_canonical(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
