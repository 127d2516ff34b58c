"""The public tokenizer against that of transformers, over the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.api.tokenizer import Tokenizer
from dsvl_pipeline.hub import local_directory
from tools.demo_checkpoint.files import BOS, EOS, IMAGE

TEXTS = ["Hi there .", f"A longer one, {IMAGE} with a picture{EOS}", ""]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    """That of the demo checkpoint."""
    return Tokenizer.from_pretrained("demo")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The same files."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(local_directory("demo"), padding_side="left")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_special_tokens": False},
        {"padding": True, "return_tensors": "pt"},
        {"padding": "longest", "return_tensors": "np", "padding_side": "right"},
        {"padding": "max_length", "max_length": 40, "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 7, "truncation": True, "return_tensors": "pt"},
        {"max_length": 5},
        {"truncation": "longest_first", "max_length": 5, "padding": True},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": True, "return_attention_mask": False},
    ],
    ids=str,
)
def test_a_call_equals_the_reference(ours: Tokenizer, theirs: Any, options: dict[str, Any]) -> None:
    """All keys, of one text and of several."""
    found, wanted = ours(TEXTS, **options), theirs(TEXTS, **options)
    assert {*found} == {*wanted}
    for name, rows in wanted.items():
        assert type(found[name]) is type(rows)
        assert [list(row) for row in found[name]] == [list(row) for row in rows]
    if "return_tensors" not in options:
        assert dict(ours(TEXTS[1], **options)) == dict(theirs(TEXTS[1], **options))
        assert ours.encode(TEXTS[1], **options) == theirs.encode(TEXTS[1], **options)


def test_texts_cut_on_the_left_keep_their_beginning(ours: Tokenizer, theirs: Any) -> None:
    """As the reference: the beginning of sequence is no part of the text."""
    found = ours("abcdefgh", truncation=True, max_length=4, truncation_side="left")
    theirs.truncation_side = "left"
    assert found["input_ids"] == theirs("abcdefgh", truncation=True, max_length=4)["input_ids"]


def test_names_and_ids_equal_the_reference(ours: Tokenizer, theirs: Any) -> None:
    """Of tokens with a role and of others."""
    for role in ("bos", "eos", "pad", "unk", "image"):
        assert getattr(ours, f"{role}_token") == getattr(theirs, f"{role}_token", None)
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id", None)
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert ours.model_max_length == theirs.model_max_length
    for tokens in (EOS, ["a", IMAGE], "no such token"):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_ids_to_tokens([70, 1]) == theirs.convert_ids_to_tokens([70, 1])
    assert ours.convert_ids_to_tokens(70) == theirs.convert_ids_to_tokens(70)
    assert ours.tokenize("a b" + EOS) == theirs.tokenize("a b" + EOS)


def test_tokens_can_be_named_anew(theirs: Any) -> None:
    """Tokens of the vocabulary at any time; others on loading, which adds them."""
    tokenizer = Tokenizer.from_pretrained("demo", sep_token="(SEP)", padding_side="right")
    assert tokenizer.sep_token_id == len(theirs)
    assert tokenizer.padding_side == "right"
    tokenizer.pad_token = BOS
    assert tokenizer.pad_token_id == tokenizer.bos_token_id
    tokenizer.pad_token_id = 1
    assert tokenizer.pad_token == EOS
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    with pytest.raises(ValueError, match=r"\[PAD\].* does not have; give it to from_pretrained"):
        tokenizer.pad_token = "[PAD]"
    with pytest.raises(AttributeError, match="no attribute 'add_tokens'"):
        _ = tokenizer.add_tokens


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"padding": "both"}, "padding is 'both'"),
        ({"truncation": "all"}, "truncation is 'all'"),
        ({"padding_side": "top"}, "padding_side is 'top'"),
        ({"return_offsets_mapping": True}, "return_offsets_mapping=True cannot be done here"),
    ],
)
def test_what_cannot_be_done_is_a_value_error(
    ours: Tokenizer, options: dict[str, Any], found: str
) -> None:
    """And says what."""
    with pytest.raises(ValueError, match=found):
        ours("a", **options)
    with pytest.raises(ValueError, match="a string or a list of strings"):
        ours([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="has no option 'paddign'"):
        ours("a", paddign=True)  # type: ignore[call-arg]


def test_saved_files_are_read_by_both(ours: Tokenizer, tmp_path: Path) -> None:
    """With what was changed."""
    from transformers import AutoTokenizer

    changed = Tokenizer.from_pretrained("demo", sep_token="(SEP)")
    changed.padding_side = "right"
    names = {Path(file).name for file in changed.save_pretrained(tmp_path)}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for found in (Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert found(TEXTS)["input_ids"] == ours(TEXTS)["input_ids"]
        assert found.sep_token_id == changed.sep_token_id
        assert found.image_token == IMAGE
        assert (found.padding_side, found.pad_token) == ("right", EOS)
        assert found.chat_template == ours.chat_template
