"""Where an answer is cut, it may be inside a character; what the model wrote itself stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dsvl_pipeline.engine.schedule.cut_character import bytes_of_tokens, decode_whole
from tests.processor.vocabularies import DEMO, metaspace_bpe, split_bpe

TEXT = "na\u00efve \u4f60\u597d \u043c\u0438\u0440 \U0001f600\U0001f468\u200d\U0001f469 e\u0301 end"


def demo() -> Tokenizer:
    """The demo checkpoint's tokenizer."""
    return Tokenizer.from_file(str(Path(DEMO) / "tokenizer.json"))


@pytest.mark.parametrize("make", [demo, split_bpe, metaspace_bpe])
def test_no_cut_of_a_text_ends_in_half_a_character(make: Callable[[], Tokenizer]) -> None:
    """Wherever it is cut, what is left is the text's beginning, with byte fallback as well."""
    tokenizer = make()
    bytes_of = bytes_of_tokens(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    whole = tokenizer.decode(ids)
    num_halves = 0
    for end in range(len(ids) + 1):
        found = decode_whole(ids[:end], tokenizer.decode, bytes_of)
        assert whole.startswith(found)
        num_halves += tokenizer.decode(ids[:end]).endswith("\ufffd")
    assert found == whole
    assert num_halves > 3, "else nothing was cut inside a character"


@pytest.mark.parametrize("make", [demo, split_bpe, metaspace_bpe])
def test_a_replacement_character_that_the_model_wrote_stays(
    make: Callable[[], Tokenizer],
) -> None:
    """A page may show one; only its bytes tell it from half a character."""
    tokenizer = make()
    ids = tokenizer.encode("a\ufffd", add_special_tokens=False).ids
    found = decode_whole(ids, tokenizer.decode, bytes_of_tokens(tokenizer))
    assert found == tokenizer.decode(ids)
    assert found.endswith("a\ufffd")


def test_bytes_that_can_be_no_character_stay() -> None:
    """Nothing could complete them: that is what the model said."""
    tokenizer = split_bpe()
    by_byte = {bytes_of_tokens(tokenizer)(i): i for i in range(tokenizer.get_vocab_size())}
    ids = [by_byte[bytes([byte])] for byte in b"a\xff"]
    assert decode_whole(ids, tokenizer.decode, bytes_of_tokens(tokenizer)) == "a\ufffd"
    ids = [by_byte[bytes([byte])] for byte in b"a\xff\xe4\xbd"]
    assert decode_whole(ids, tokenizer.decode, bytes_of_tokens(tokenizer)) == "a\ufffd"
    assert tokenizer.decode(ids) == "a\ufffd\ufffd"


def test_a_token_that_holds_half_a_character_keeps_its_other_letters() -> None:
    """Merges cross the borders of characters."""
    pieces = {1: b"yes ", 2: b"is \xe4\xbd", 3: b"\xa0"}

    def decode(ids: list[int]) -> str:
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    assert decode_whole([1, 2], decode, pieces.__getitem__) == "yes is "
    assert decode_whole([1, 2, 3], decode, pieces.__getitem__) == "yes is \u4f60"
