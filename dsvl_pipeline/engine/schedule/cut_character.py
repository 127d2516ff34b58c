"""Answers that end inside a character: the bytes of their last tokens tell which do. Torch-free.

A decoder writes the replacement character for half a character, and a model may mean that very
character; in the text the two look the same.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from dsvl_pipeline.engine.schedule.stop_text import DecodeIds

BytesOf = Callable[[int], bytes]
"""A token's part of the text; empty for special tokens."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
# A character of UTF-8 has at most four bytes, and the longest run of tokens of no byte is short.
_TOKENS_LOOKED_AT = 8


def decode_whole(ids: Sequence[int], decode: DecodeIds, bytes_of: BytesOf | None) -> str:
    """Decode an answer that was cut, without the part of a character at its end.

    Args:
        ids: Of the answer.
        decode: See `stop_text.DecodeIds`.
        bytes_of: Without it half a character stays what the decoder makes of it.
    """
    text = decode(ids)
    if bytes_of is None or not text.endswith(_REPLACEMENT):
        return text
    pieces = [bytes_of(token_id) for token_id in ids[-_TOKENS_LOOKED_AT:]]
    num_cut = len(_unfinished(b"".join(pieces)))
    if not num_cut:
        return text  # the model said so
    end = len(ids)
    while num_cut and len(pieces[-1]) <= num_cut:
        num_cut -= len(pieces.pop())
        end -= 1
    text = decode(ids[:end])
    # The rest shares a token with whole characters; the decoder wrote one sign for it.
    return text[:-1] if num_cut and text.endswith(_REPLACEMENT) else text


def _unfinished(data: bytes) -> bytes:
    """Give the bytes at the end that may still become a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0]


def bytes_of_tokens(tokenizer: Tokenizer) -> BytesOf:
    """Return what tells a token's bytes, for byte-level tokenizers and those with byte fallback."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    decoder = tokenizer.decoder
    kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
    of_letter = _bytes_of_letters() if "ByteLevel" in kinds else None

    def bytes_of(token_id: int) -> bytes:
        token = None if token_id in special else tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if of_letter is not None and all(letter in of_letter for letter in token):
            return bytes(of_letter[letter] for letter in token)
        if "ByteFallback" in kinds and (found := _BYTE.fullmatch(token)):
            return bytes([int(found[1], 16)])
        return token.encode()

    return bytes_of


def _kinds(decoder: dict[str, Any]) -> set[str]:
    inner = decoder.get("decoders") or ()
    return {decoder["type"], *(kind for one in inner for kind in _kinds(one))}


def _bytes_of_letters() -> dict[str, int]:
    """Return the letters by which byte-level tokenizers write bytes.

    Source: ``bytes_to_unicode`` of GPT-2: printable bytes stand for themselves, the others for
    what follows U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + n): byte for n, byte in enumerate(others)}
