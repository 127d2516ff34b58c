"""Damage bytes at random, the same way for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_BORDERS = (0, 1, 0x7F, 0x80, 0xFF)
_WIDE_BORDERS = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(
    data: bytes, rng: random.Random, *, others: Sequence[bytes], words: Sequence[bytes] = ()
) -> bytes:
    """Damage a file in one to eight ways; now and then leave it alone.

    Args:
        data: The file.
        rng: Decides everything.
        others: Files of the same kind, to splice pieces of.
        words: What means something in such files; put in here and there.
    """
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8))):
        if not data:
            break
        data = rng.choice(_WAYS)(data, rng, others, words)
    return data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Choose a piece: mostly a few bytes, sometimes a large part."""
    start = rng.randrange(len(data))
    longest = rng.choice((1, 4, 16, 256, len(data)))
    return start, min(len(data), start + rng.randint(1, max(1, longest)))


def _flip(data: bytes, rng: random.Random, *_: object) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _set_byte(data: bytes, rng: random.Random, *_: object) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.choice(_BORDERS)]) + data[at + 1 :]


def _set_number(data: bytes, rng: random.Random, *_: object) -> bytes:
    width = rng.choice((2, 4))
    value = rng.choice(_WIDE_BORDERS) & (256**width - 1)
    at = rng.randrange(len(data))
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def _set_digits(data: bytes, rng: random.Random, *_: object) -> bytes:
    """Replace a decimal number, as text formats have them."""
    starts = [i for i, byte in enumerate(data[:65536]) if 48 <= byte <= 57]
    if not starts:
        return data
    start = end = rng.choice(starts)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    number = rng.choice((b"0", b"1", b"-1", b"65536", b"2147483648", b"1e999", b"0.00001", b""))
    return data[:start] + number + data[end:]


def _delete(data: bytes, rng: random.Random, *_: object) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random, *_: object) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _noise(data: bytes, rng: random.Random, *_: object) -> bytes:
    start, end = _span(data, rng)
    end = min(end, start + 4096)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _cut(data: bytes, rng: random.Random, *_: object) -> bytes:
    return data[: rng.randrange(len(data))]


def _behead(data: bytes, rng: random.Random, *_: object) -> bytes:
    return data[rng.randrange(min(len(data), 64)) :]


def _splice(
    data: bytes, rng: random.Random, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    other = rng.choice(others) if others else data
    if not other:
        return data
    start, end = _span(other, rng)
    at = rng.randrange(len(data))
    return data[:at] + other[start:end] + data[at:]


def _put_word(
    data: bytes, rng: random.Random, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    if not words:
        return _flip(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(words) + data[at + rng.choice((0, 4)) :]


_WAYS: tuple[Callable[..., bytes], ...] = (
    _flip,
    _flip,
    _set_byte,
    _set_byte,
    _set_number,
    _set_number,
    _set_digits,
    _delete,
    _repeat,
    _noise,
    _cut,
    _behead,
    _splice,
    _put_word,
    _put_word,
)
