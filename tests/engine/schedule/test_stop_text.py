"""Stop texts: found at the token that completes them, wherever tokens and characters break."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders

from dsvl_pipeline.engine.schedule.stop_text import StopText, cut_before


def decode_pieces(pieces: Sequence[bytes]) -> object:
    """Make a byte-level decoder whose ids are places in ``pieces``."""

    def decode(ids: Sequence[int]) -> str:
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    return decode


def first_stop(pieces: Sequence[bytes], stop: Sequence[str]) -> int | None:
    """Return how many tokens it took to find a stop text."""
    watch = StopText(stop, decode_pieces(pieces))
    for token_id in range(len(pieces)):
        if watch.push(token_id):
            return token_id + 1
    return None


def test_a_stop_text_is_found_across_tokens() -> None:
    """Tokens do not end where stop texts begin."""
    assert first_stop([b"one E", b"N", b"D two"], ["END"]) == 3
    assert first_stop([b"one E", b"N", b"N", b"D"], ["END"]) is None
    assert first_stop([b"a", b"b", b"c"], ["zzzz", "bc"]) == 3


def test_a_split_character_is_waited_for() -> None:
    """The bytes of a character may come in several tokens, as for most of Chinese."""
    stop = "停"
    one, two, three = (bytes([byte]) for byte in stop.encode())
    assert first_stop([b"a", one, two, three, b"b"], [stop]) == 4
    assert first_stop([b"a" + one, two + three], [stop]) == 2
    assert first_stop([one, two, b"x", three], [stop]) is None


def test_a_stop_text_before_half_a_character_is_found_at_once() -> None:
    """The half may never be completed."""
    assert first_stop([b"a", b"END\xe5", b"\x81\x9c"], ["END"]) == 2


@given(
    st.lists(
        st.sampled_from(
            [b"a", b"b", b"ab", b"ba", b"\xe5", b"\x81", b"\x9c", b"\xe5\x81", b"\xff"]
        ),
        max_size=30,
    ),
    st.lists(st.sampled_from(["ab", "aba", "停a", "b停", "bb"]), min_size=1, max_size=3),
)
@example([b"\x81"] * 20 + [b"a", b"b"], ["ab"])
def test_the_watch_agrees_with_decoding_everything(pieces: list[bytes], stop: list[str]) -> None:
    """The incremental path looks at a few tokens, the plain one at all of them."""
    decode = decode_pieces(pieces)
    whole = (decode(range(n + 1)) for n in range(len(pieces)))
    expected = next(
        (n for n, text in enumerate(whole, start=1) if any(s in text for s in stop)), None
    )
    assert first_stop(pieces, stop) == expected


def test_the_watch_decodes_few_tokens_at_a_time() -> None:
    """A model that babbles bytes must not make every step slower than the last."""
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return bytes(ids).decode(errors="replace")

    watch = StopText(["END"], decode)
    for token_id in [0x81, 0xE5, 0x81, 0xFF] * 50:
        assert not watch.push(token_id)
    assert longest <= 6


PIECES = ["▁the", "▁end", "end", "▁", "s", "<0xE5>", "<0x81>", "<0x9C>", "<0x41>"]
# As the tokenizers of the LLaMA family write words and bytes.
WORDS = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)


def decode_words(ids: Sequence[int]) -> str:
    """Decode with the space before the first word dropped."""
    text: str = WORDS.decode([PIECES[i] for i in ids])
    return text


@pytest.mark.parametrize(
    ("ids", "stop", "num_tokens"),
    [
        ([0, 1, 4], " end", 2),
        ([0, 1], "e e", 2),
        ([1, 2, 1], " end", 3),
        ([0, 3, 2], " end", 3),
        ([0, 5, 6, 7, 5, 6, 7, 1], "停 end", 8),
        ([5, 6, 7, 5, 6, 7], "停停", 6),
        ([0, 2], " end", None),
    ],
)
def test_the_space_before_a_word_is_seen(ids: list[int], stop: str, num_tokens: int | None) -> None:
    """A token decoded by itself has lost it, as every text's first."""
    watch = StopText([stop], decode_words)
    pushed = next((n for n, token_id in enumerate(ids, 1) if watch.push(token_id)), None)
    assert pushed == num_tokens
    assert (stop in decode_words(ids)) == (num_tokens is not None)


def test_text_is_cut_before_the_first_stop_text() -> None:
    """Of several, the one that comes first in the text counts."""
    assert cut_before("one END two STOP", ["STOP", "END"]) == "one "
    assert cut_before("nothing here", ["STOP"]) == "nothing here"
    assert cut_before("END", ["END"]) == ""
