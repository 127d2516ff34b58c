"""What ends an answer, and which tokens are special, in all the ways that files write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.model.end_of_sequence import EndOfSequence, read_end_of_sequence
from dsvl_pipeline.model.special_tokens import read_special_tokens

END, HASH, LETTER, TOOL, PLAIN_END = 5, 2, 6, 7, 3
ADDED = [("<s>", 4, True), ("<end>", END, True), ("\u00fc", LETTER, False), ("<tool>", TOOL, False)]


def write(directory: Path, **files: Any) -> Path:
    """Write a tokenizer of eight tokens, and JSON files by their name without ending."""
    vocab = {"a": 0, "b": 1, "#": HASH, "</s>": PLAIN_END}
    added = [{"content": c, "id": i, "special": special} for c, i, special in ADDED]
    spec = {"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": added}
    files = {"tokenizer": spec, "tokenizer_config": {"eos_token": "<end>"}, **files}
    for name, content in files.items():
        if content is not None:
            (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def ends(directory: Path, eos: Any, **files: Any) -> EndOfSequence:
    """Read a checkpoint whose generation_config.json has an end of sequence."""
    return read_end_of_sequence(write(directory, generation_config={"eos_token_id": eos}, **files))


@pytest.mark.parametrize(
    ("eos", "used", "refused"),
    [
        (END, (END,), ()),
        (4, (4, END), ()),  # special: united with the tokenizer's
        ([4, END], (4, END), ()),
        ([END, END], (END,), ()),
        (HASH, (END,), (HASH,)),
        ([HASH, 4], (4, END), (HASH,)),
        ([1, 0], (END,), (0, 1)),
        (LETTER, (END,), (LETTER,)),  # added, but a letter
        (TOOL, (TOOL, END), ()),  # a name that no text has by chance
        (100_001, (END,), (100_001,)),  # beyond the vocabulary
        (-1, (END,), (-1,)),
        (None, (END,), ()),
        ([], (END,), ()),
    ],
)
def test_an_answer_ends_at_special_tokens_and_at_the_tokenizers_own_end(
    tmp_path: Path, eos: Any, used: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    """A conversion's default of 2 is a letter of this vocabulary: answers stopped at any ``#``."""
    found = ends(tmp_path, eos)
    assert (found.eos_token_ids, found.refused_eos_token_ids) == (used, refused)
    assert (found.warning is not None) == bool(refused)
    for number in refused:
        assert str(number) in str(found.warning)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": {"content": "<end>", "special": True}}},
        {"tokenizer_config": None, "special_tokens_map": {"eos_token": "<end>"}},
        {"tokenizer_config": {}, "special_tokens_map": {"eos_token": {"content": "<end>"}}},
        {"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "<end>"}},
        {"tokenizer_config": {"eos_token": "<end>"}, "special_tokens_map": {"eos_token": "<s>"}},
        {"config": {"eos_token_id": HASH, "text_config": {"eos_token_id": HASH}}},
    ],
    ids=["object", "map", "map-object", "null", "both", "config.json"],
)
def test_the_tokenizers_end_is_found_wherever_it_is_named(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    """As a string or an object, in either file; config.json's default is nobody's word."""
    assert ends(tmp_path, HASH, **files).eos_token_ids == (END,)
    (tmp_path / "generation_config.json").unlink()
    assert read_end_of_sequence(tmp_path).eos_token_ids == (END,)


def test_a_token_is_special_where_either_file_calls_it_so(tmp_path: Path) -> None:
    """In older layouts the end of sentence is an ordinary entry of the vocabulary."""
    named = {"tokenizer_config": {"eos_token": "</s>"}}
    found = ends(tmp_path, PLAIN_END, **named)
    assert (found.eos_token_ids, found.warning) == ((PLAIN_END,), None)
    decoder = {str(HASH): {"content": "#", "special": True}}
    found = ends(tmp_path, HASH, tokenizer_config={"added_tokens_decoder": decoder})
    assert (found.eos_token_ids, found.warning) == ((HASH,), None)
    unigram = {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["</s>", -1.0]]}}
    assert ends(tmp_path, 0, tokenizer=unigram, **named).eos_token_ids == (1,)


def test_without_a_tokenizer_the_file_is_believed(tmp_path: Path) -> None:
    """Weights alone can be used through ``generate``; nothing there tells a word from an end."""
    found = ends(tmp_path, HASH, tokenizer=None, tokenizer_config=None)
    assert (found.eos_token_ids, found.warning) == ((HASH,), None)


@pytest.mark.parametrize(
    ("eos", "is_mended"), [(END, False), (None, False), ([4, END], False), (HASH, True), (4, True)]
)
def test_only_where_the_file_was_wrong_do_rows_run_again(
    tmp_path: Path, eos: Any, is_mended: bool
) -> None:
    """What is mended enters the recipe; a table that was right keeps its own."""
    assert ends(tmp_path, eos).has_mended_eos == is_mended


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({"extra_special_tokens": {"tool_token": "<tool>"}}, ()),
        ({"extra_special_tokens": {"tool_token": {"content": "<tool>", "special": True}}}, ()),
        ({"extra_special_tokens": ["<tool>", {"content": "<s>"}]}, ("<tool>", "<s>")),
        ({"additional_special_tokens": ["<tool>"]}, ("<tool>",)),
        ({"extra_special_tokens": {}, "additional_special_tokens": ["<tool>"]}, ("<tool>",)),
        ({"extra_special_tokens": None}, ()),
        ({"extra_special_tokens": []}, ()),
    ],
)
def test_extra_special_tokens_are_a_list_or_an_object(
    tmp_path: Path, config: dict[str, Any], others: tuple[str, ...]
) -> None:
    """Transformers 4.5x writes name -> token: the names are none, and were taken for some."""
    found = read_special_tokens(write(tmp_path, tokenizer_config=config))
    assert found.others == others
    is_named = (
        isinstance(config.get("extra_special_tokens"), dict) and config["extra_special_tokens"]
    )
    assert found.named == ({"tool_token": "<tool>"} if is_named else {})
