"""Structured output: what the mask lets through satisfies the grammar, and nothing else does."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from dsvl_pipeline import hub
from dsvl_pipeline.engine.schedule import structured
from dsvl_pipeline.engine.schedule.structured import Grammars, Matcher
from dsvl_pipeline.errors import CheckpointError, GrammarError
from dsvl_pipeline.job import grammar

pytest.importorskip("llguidance", reason="comes with the extra 'model'")

BOS, EOS, IMAGE = 0, 1, 2
VOCAB_SIZE = 264  # the tokenizer has 263: the last id has no text
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_round": {"type": "boolean"},
    },
    "required": ["colour", "count", "is_round"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def directory() -> Path:
    """The demo checkpoint."""
    return hub.resolve("demo", None)


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    """Its tokenizer, by the usual library."""
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def grammars(directory: Path) -> Grammars:
    """Its tokenizer, by the library under test."""
    return Grammars(directory, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS])


def allowed(matcher: Matcher) -> list[int]:
    """Read the mask the way the engine's sampling does."""
    row = np.full(-(-VOCAB_SIZE // 32), -1, dtype=np.int32)
    matcher.fill(row)
    return [t for t in range(len(row) * 32) if row[t // 32] >> (t % 32) & 1]


def walk(matcher: Matcher, rng: random.Random, most: int = 200) -> list[int] | None:
    """Choose any allowed token until the end of sequence; None where it did not come."""
    ids: list[int] = []
    for _ in range(most):
        token_id = rng.choice(allowed(matcher))
        matcher.accept(token_id)
        if token_id == EOS:
            return ids
        ids.append(token_id)
    return None


@pytest.mark.parametrize("regex", [r"[0-9]{2}-x?", r"(ab|a|b)+", r"", r"[äöü€停]{1,3}", r"a{3}|b"])
def test_what_ends_matches_the_regular_expression(
    grammars: Grammars, tokenizer: Tokenizer, regex: str
) -> None:
    """Tokens are bytes here, so most characters of the third case come in pieces."""
    for seed in range(20):
        ids = walk(grammars.matcher(None, regex), random.Random(seed))
        if ids is not None:  # (ab)+ need not end
            assert re.fullmatch(regex, tokenizer.decode(ids))


def test_the_end_is_allowed_exactly_where_the_text_is_complete(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    """An end allowed too early gives half an answer; too late, babble."""
    regex = r"[0-9]{2}(-[0-9])*"
    matcher = grammars.matcher(None, regex)
    ids: list[int] = []
    for character in "12-3-4":
        is_complete = re.fullmatch(regex, tokenizer.decode(ids)) is not None
        assert (EOS in allowed(matcher)) == is_complete
        (token_id,) = tokenizer.encode(character, add_special_tokens=False).ids
        assert token_id in allowed(matcher)
        matcher.accept(token_id)
        ids.append(token_id)
        assert not matcher.is_finished  # more could follow


def test_what_ends_satisfies_the_schema(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """Whatever the model prefers: here it chooses at random."""
    for seed in range(50):
        matcher = grammars.matcher(json.dumps(SCHEMA), None)
        ids = walk(matcher, random.Random(seed))
        assert ids is not None
        value: dict[str, Any] = json.loads(tokenizer.decode(ids))
        assert list(value) == ["colour", "count", "is_round"]
        assert value["colour"] in ("red", "green")
        assert type(value["count"]) is int
        assert 0 <= value["count"] <= 99
        assert type(value["is_round"]) is bool
        assert matcher.error is None


def test_a_finished_completion_says_so(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """Nothing can follow the last brace: the engine need not compute the end of sequence."""
    matcher = grammars.matcher(json.dumps(SCHEMA), None)
    text = '{"colour": "red", "count": 7, "is_round": true}'
    for token_id in tokenizer.encode(text, add_special_tokens=False).ids:
        assert not matcher.is_finished
        matcher.accept(token_id)
    assert matcher.is_finished
    assert matcher.error is None
    assert allowed(matcher) == [EOS]
    matcher.accept(EOS)
    matcher.accept(5)  # a step that was launched before this was known
    assert matcher.error is None


def test_control_tokens_are_never_allowed(grammars: Grammars) -> None:
    """Not even where anything is: an image token in a completion would stand for an image."""
    ids = allowed(grammars.matcher(None, r"(.|\n)*"))
    assert not {BOS, IMAGE, VOCAB_SIZE - 1} & set(ids)
    assert max(ids) < VOCAB_SIZE
    assert EOS in ids
    assert len(ids) > 150


def test_a_control_token_of_another_name_is_not_spelt(directory: Path, tmp_path: Path) -> None:
    """Some checkpoints list role markers as ordinary added tokens, and some no image token."""
    spec = json.loads((directory / "tokenizer.json").read_text())
    ordinary = {**spec["added_tokens"][0], "special": False}
    spec["added_tokens"] += [
        {**ordinary, "id": 263, "content": "[USER]"},
        {**ordinary, "id": 264, "content": "☃"},
        {**ordinary, "id": 265, "content": "<image>"},
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    grammars = Grammars(tmp_path, vocab_size=288, eos_token_ids=[EOS], control_ids=[IMAGE, 40])
    row = np.zeros(9, dtype=np.int32)
    grammars.matcher(None, r"(.|\n)*").fill(row)
    is_allowed = [bool(row[t // 32] >> (t % 32) & 1) for t in range(288)]
    assert not any(is_allowed[t] for t in (BOS, IMAGE, 40, 263, 265, 266, 287))
    assert is_allowed[41]
    assert is_allowed[264]  # a letter is vocabulary


def test_a_dead_end_ends_the_completion(directory: Path) -> None:
    """A row without any allowed token would make sampling divide by nothing."""
    letters = range(3, VOCAB_SIZE)
    grammars = Grammars(
        directory, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS, 70], control_ids=letters
    )
    assert allowed(grammars.matcher(None, "abc")) == [EOS, 70]


def test_a_token_against_the_grammar_is_an_error_not_an_exception(grammars: Grammars) -> None:
    """In the middle of a step an exception would take the other rows down."""
    matcher = grammars.matcher(None, "[0-9]+")
    matcher.accept(5)
    assert "doesn't satisfy the grammar" in str(matcher.error)
    assert matcher.is_finished
    assert allowed(matcher) == [EOS]


def test_completions_of_one_grammar_do_not_touch_each_other(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    """The grammar is compiled once; each completion has a state of its own."""
    one, two = (grammars.matcher(None, "ab|ba") for _ in range(2))
    a, b = (tokenizer.token_to_id(letter) for letter in "ab")
    one.accept(a)
    assert allowed(one) == [b]
    assert sorted(allowed(two)) == sorted([a, b])
    assert sorted(allowed(grammars.matcher(None, "ab|ba"))) == sorted([a, b])


def test_a_grammar_does_not_wear_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lexer states that all completions of a run leave behind must not fail the last of them."""
    monkeypatch.setattr(structured, "_MAX_LEXER_STATES", 1000)
    monkeypatch.setattr(structured, "_USES_PER_COMPILATION", 4)
    grammars = Grammars(directory, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS])
    rng = random.Random(0)
    for _ in range(40):
        matcher = grammars.matcher(None, "(a|b)*a(a|b){14}")  # states: what the last 15 were
        for _ in range(60):
            matcher.accept(rng.choice([t for t in allowed(matcher) if t != EOS]))
        assert matcher.error is None


def test_one_blank_between_tokens_is_enough(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """A small model may indent for ever otherwise, and every blank is paid for."""
    matcher = grammars.matcher(json.dumps(SCHEMA), None)
    (blank,) = tokenizer.encode(" ", add_special_tokens=False).ids
    for token in tokenizer.encode('{"colour":', add_special_tokens=False).ids:
        matcher.accept(token)
    assert blank in allowed(matcher)
    matcher.accept(blank)
    assert blank not in allowed(matcher)
    assert len(allowed(matcher)) == 1  # the value begins


def test_so_it_is_with_an_older_llguidance(
    directory: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own pattern could be repeated; what is written instead means the same in all versions."""
    monkeypatch.setattr(grammar, "_is_before_1_8", lambda: True)
    grammars = Grammars(directory, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS])
    test_one_blank_between_tokens_is_enough(grammars, tokenizer)


@pytest.mark.parametrize(
    ("schema", "regex", "message"),
    [
        ('{"type": "strin"}', None, "the JSON schema cannot be enforced: Invalid type: strin"),
        ("{", None, "the JSON schema is not JSON"),
        (None, "[", "the regular expression cannot be enforced: unclosed character class"),
        ("{}", "a", "both a JSON schema and a regular expression are given; keep one"),
    ],
)
def test_a_bad_grammar_is_refused(
    grammars: Grammars, schema: str | None, regex: str | None, message: str
) -> None:
    """It is one row's fault, with a code; the second row with it is not compiled again."""
    for _ in range(2):
        with pytest.raises(GrammarError, match=re.escape(message)) as caught:
            grammars.matcher(schema, regex)
        assert caught.value.code == "schema_invalid"


def test_a_missing_tokenizer_is_the_checkpoints_fault(tmp_path: Path) -> None:
    """Every row would fail of it."""
    grammars = Grammars(tmp_path, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS])
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be used"):
        grammars.matcher(None, "a")
