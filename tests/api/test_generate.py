"""Variants of ``generate`` against those of transformers, on the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import dsvl_pipeline
from dsvl_pipeline.api.generation import generate as calls
from tests.api.examples import FAMILIES, family_name, user, write_pictures
from tests.checkpoints import EOS_TOKEN_ID, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")

MANY_ENDS = [*range(0, 259, 4), EOS_TOKEN_ID]  # so that beams end at different lengths
INPUTS = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
RECORD = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_hidden_states": True,
    "output_attentions": True,
}


class Pair:
    """Ours and theirs, with the same weights and prompts.

    Attributes:
        inputs: Unequal prompts with 0, 1 and 3 pictures.
    """

    def __init__(self, directory: Path, family: str) -> None:
        self.theirs = write_checkpoint(directory / "checkpoint", is_hybrid=family == "hybrid")
        self.theirs.generation_config.pad_token_id = EOS_TOKEN_ID
        self.theirs.set_attn_implementation("eager")  # gives attentions
        kind = getattr(dsvl_pipeline, family_name(family, "ForConditionalGeneration"))
        self.ours = kind.from_pretrained(
            directory / "checkpoint", dtype=torch.float32, attn_implementation="eager"
        )
        write_pictures(directory)
        urls = sorted(map(str, directory.glob("*.png")))
        chats = [user("Say something."), user("What is it?", urls[0]), user("Compare.", *urls)]
        processor = getattr(dsvl_pipeline, family_name(family, "Processor"))
        self.inputs = processor.from_pretrained(directory / "checkpoint").apply_chat_template(
            chats, return_tensors="pt", **INPUTS
        )

    def generate(self, inputs: Any = None, **options: Any) -> tuple[Any, Any]:
        """Ours and theirs."""
        options = {"max_new_tokens": 8, **options}
        inputs = self.inputs if inputs is None else inputs
        return self.ours.generate(**inputs, **options), self.theirs.generate(**inputs, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both families."""
    return Pair(tmp_path_factory.mktemp(request.param), request.param)


def text_inputs() -> dict[str, Tensor]:
    """Two padded prompts without pictures."""
    ids = torch.randint(10, 259, (2, 14), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


def odd_follows_even(_: int, ids: Tensor) -> list[int]:
    """Some tokens that depend on the last one."""
    first = 11 if int(ids[-1]) % 2 == 0 else 10
    return list(range(first, 200, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
        {"num_beams": 3, "early_stopping": True, "eos_token_id": MANY_ENDS},
        {"num_beams": 3, "early_stopping": "never", "eos_token_id": MANY_ENDS},
        {"num_beams": 2, "length_penalty": -1.0, "eos_token_id": MANY_ENDS},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "eos_token_id": MANY_ENDS},
        {"bad_words_ids": [[30], [40, 41], [50]]},
        {"use_cache": False},
        {"use_cache": False, "num_beams": 2},
    ],
    ids=str,
)
def test_ids_equal_the_references(pair: Pair, options: dict[str, Any]) -> None:
    """For padded prompts with 0, 1 and 3 pictures."""
    found, wanted = pair.generate(**options)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"min_length": 20, "eos_token_id": MANY_ENDS},
        {"suppress_tokens": [*range(50, 90)]},
        {"begin_suppress_tokens": [*range(100)]},
        {"forced_eos_token_id": 7},
        {"forced_eos_token_id": 0},
        {"max_new_tokens": None, "max_length": 20},
        {"min_length": 22, "min_new_tokens": 2, "eos_token_id": MANY_ENDS},
        {"sequence_bias": {(10,): 5.0, (10, 20): 3.0}},
        {"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": 7},
        {"remove_invalid_values": True, "renormalize_logits": True},
        {"prefix_allowed_tokens_fn": odd_follows_even},
        {"prefix_allowed_tokens_fn": odd_follows_even, "num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
    ],
    ids=lambda options: " ".join(options),
)
def test_ids_of_texts_equal_the_references(pair: Pair, options: dict[str, Any]) -> None:
    """Settings that have nothing to do with pictures."""
    inputs = text_inputs()
    if "prompt_lookup_num_tokens" in options:  # the reference looks up one prompt at a time
        inputs = {name: value[1:] for name, value in inputs.items()}
    found, wanted = pair.generate(inputs, **options)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 5, "temperature": 0.7},
        {"top_p": 0.8, "top_k": 0},
        {"min_p": 0.1},
        {"typical_p": 0.7, "top_k": 0},
        {"epsilon_cutoff": 0.004, "top_k": 0},
        {"eta_cutoff": 0.01, "top_k": 0},
        {"num_return_sequences": 3},
        {"num_beams": 3, "top_p": 0.5},
    ],
    ids=str,
)
def test_filters_are_the_references(pair: Pair, filters: dict[str, Any]) -> None:
    """Over forward the same seed even draws the same; a processor that does nothing asks for it."""
    options = {"do_sample": True, "logits_processor": [lambda _ids, scores: scores], **filters}
    torch.manual_seed(5)
    found = pair.ours.generate(**text_inputs(), max_new_tokens=8, **options)
    torch.manual_seed(5)
    wanted = pair.theirs.generate(**text_inputs(), max_new_tokens=8, **options)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_what_is_recorded_equals_the_references(pair: Pair, options: dict[str, Any]) -> None:
    """Scores, logits, attentions and hidden states of every step; read as attribute and key."""
    found, wanted = pair.generate(text_inputs(), **RECORD, **options)
    assert found.sequences.tolist() == wanted["sequences"].tolist()
    assert found[0] is found.sequences
    assert [*found.keys()] == [*wanted.keys()]
    for name in ("scores", "logits"):
        for ours, theirs in zip(found[name], wanted[name], strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-4)
    for name in ("attentions", "hidden_states"):
        for ours, theirs in zip(found[name], wanted[name], strict=True):
            assert [one.shape for one in ours] == [one.shape for one in theirs]
    assert_close(found.hidden_states[-1][-1], wanted.hidden_states[-1][-1], rtol=0, atol=1e-4)
    assert found.past_key_values.get_seq_length() == wanted.past_key_values.get_seq_length()
    if options:
        assert found.beam_indices.tolist() == wanted.beam_indices.tolist()
        assert_close(found.sequences_scores, wanted.sequences_scores, rtol=0, atol=1e-4)


def test_embeddings_are_answered_as_their_ids(pair: Pair) -> None:
    """And alone they are no part of the answer."""
    inputs = text_inputs()
    plain, _ = pair.generate(inputs)
    embeds = pair.ours.get_input_embeddings()(inputs["input_ids"])
    rest = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    found, wanted = pair.generate(rest)
    assert found.tolist() == wanted.tolist() == plain[:, 14:].tolist()
    both, _ = pair.generate({**rest, "input_ids": inputs["input_ids"]})
    assert both.tolist() == plain.tolist()


def test_arrays_and_lists_are_taken_too(pair: Pair) -> None:
    """As processors give them without tensors."""
    inputs = text_inputs()
    wanted = pair.ours.generate(**inputs, max_new_tokens=3).tolist()
    for change in (lambda x: x.numpy(), lambda x: x.tolist()):
        given = {name: change(value) for name, value in inputs.items()}
        assert pair.ours.generate(**given, max_new_tokens=3).tolist() == wanted


def test_a_model_takes_a_config_of_its_own_family_only(pair: Pair) -> None:
    """With a word about from_pretrained for who gives a name."""
    kind, name = type(pair.ours), type(pair.ours).__name__
    is_hybrid = "Hybrid" in name
    other = dsvl_pipeline.DeepseekVLConfig if is_hybrid else dsvl_pipeline.DeepseekVLHybridConfig
    for wrong in (other(), "demo", {}):
        with pytest.raises(TypeError, match=f"not of a .*; {name}.from_pretrained loads"):
            kind(wrong)


def test_a_gap_in_a_prompt_is_answered_as_the_reference_does(pair: Pair) -> None:
    """The engine, which would close it, is not asked."""
    inputs = text_inputs()
    inputs["attention_mask"][1, 4:7] = 0
    found, wanted = pair.generate(inputs)
    assert found.tolist() == wanted.tolist()


def test_an_answer_goes_on_from_its_cache(pair: Pair) -> None:
    """As if it had been asked for in one."""
    inputs = text_inputs()
    whole = pair.ours.generate(**inputs, max_new_tokens=9, eos_token_id=[])
    first = pair.ours.generate(
        **inputs, max_new_tokens=4, eos_token_id=[], return_dict_in_generate=True
    )
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1)
    rest = pair.ours.generate(
        first.sequences,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        max_new_tokens=5,
        eos_token_id=[],
    )
    assert rest.tolist() == whole.tolist()


def test_callers_may_stop_and_watch(pair: Pair) -> None:
    """A criterion ends answers; a streamer gets the prompts, then token by token."""
    seen: list[Tensor] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            seen.append(value)

        def end(self) -> None:
            seen.append(torch.tensor([-1]))

    stops: list[Callable[..., Any]] = [lambda ids, _scores: ids.shape[1] >= 17]
    options = {"stopping_criteria": stops, "streamer": Streamer()}
    one = {name: value[:1] for name, value in text_inputs().items()}
    found = pair.ours.generate(**one, max_new_tokens=8, **options)
    assert found.shape[1] == 17
    assert seen[0].tolist() == one["input_ids"].tolist()
    assert torch.cat(seen[1:]).tolist() == [*found[0, 14:].tolist(), -1]
    with pytest.raises(ValueError, match="a streamer needs num_beams=1"):
        pair.ours.generate(**one, num_beams=2, streamer=Streamer())


def test_a_text_ends_an_answer(pair: Pair) -> None:
    """Where it comes, even in the middle of a token."""

    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "".join(f"<{number}>" for number in ids)

    plain = pair.ours.generate(**text_inputs(), max_new_tokens=8)[1:, 14:]
    text = f"{plain[0, 3].item()}>"
    one = {name: value[1:] for name, value in text_inputs().items()}
    options = {"stop_strings": [text], "tokenizer": Letters(), "max_new_tokens": 8}
    found = pair.ours.generate(**one, **options)[:, 14:]
    end = plain[0].tolist().index(plain[0, 3].item()) + 1
    assert found.tolist() == plain[:, :end].tolist()
    with pytest.raises(ValueError, match="stop_strings needs the tokenizer"):
        pair.ours.generate(**one, stop_strings=[text])


def test_several_samples_of_a_prompt_are_drawn_on_the_engine(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a seed each, repeated by torch's; the rows of a prompt lie together."""
    monkeypatch.setattr(calls, "_over_forward", None)
    options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 8, "top_k": 0}
    torch.manual_seed(1)
    first = pair.ours.generate(**pair.inputs, **options)
    torch.manual_seed(1)
    assert pair.ours.generate(**pair.inputs, **options).tolist() == first.tolist()
    width = pair.inputs.input_ids.shape[1]
    assert first[::2, :width].tolist() == pair.inputs.input_ids.tolist()
    assert first[::2].tolist() != first[1::2].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam_groups": 2, "diversity_penalty": 0.5}, "cannot do num_beam_groups=2, divers"),
        ({"guidance_scale": 3.0}, "cannot do guidance_scale=3.0"),
        ({"num_return_sequences": 2}, "greedy search has one answer"),
        ({"num_beams": 2, "num_return_sequences": 3}, "but num_beams only 2"),
        ({"max_tokens": 5}, "does not know the arguments 'max_tokens'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be 1 or more"),
        ({"custom_generate": "someone/code"}, "runs no code of others"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0"),
        ({"num_beams": 2, "early_stopping": "maybe"}, "early_stopping is 'maybe'; it must be True"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_named(pair: Pair, options: dict[str, Any], message: str) -> None:
    """With what can be done instead."""
    with pytest.raises(ValueError, match=message):
        pair.ours.generate(**text_inputs(), **options)


def test_a_config_may_be_given_and_changed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments win over it, and it wins over the model's own; transformers' own is taken too."""
    import transformers

    inputs = text_inputs()
    wanted = pair.ours.generate(**inputs, max_new_tokens=3, num_beams=2)
    for kind in (dsvl_pipeline.GenerationConfig, transformers.GenerationConfig, dict):
        given = kind(max_new_tokens=9, num_beams=2)
        found = pair.ours.generate(**inputs, generation_config=given, max_new_tokens=3)
        assert found.tolist() == wanted.tolist()
    monkeypatch.setattr(pair.ours.generation_config, "num_beams", 2)
    assert pair.ours.generate(**inputs, max_new_tokens=3).tolist() == wanted.tolist()


def test_a_config_goes_through_files(tmp_path: Path) -> None:
    """Ours and transformers' read each other's."""
    import transformers

    biased = dsvl_pipeline.GenerationConfig(sequence_bias={(1, 2): 0.5})
    assert '"sequence_bias"' in biased.to_json_string()
    values = {"max_new_tokens": 5, "do_sample": True, "top_p": 0.9, "eos_token_id": [1, 7]}
    dsvl_pipeline.GenerationConfig(**values).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(theirs, name) for name in values} == values
    theirs.save_pretrained(tmp_path)
    ours = dsvl_pipeline.GenerationConfig.from_pretrained(tmp_path, top_k=3)
    assert {name: getattr(ours, name) for name in values} == values
    assert (ours.top_k, ours.num_beams) == (3, None)
    assert dsvl_pipeline.GenerationConfig.from_dict(ours.to_dict()) == ours
    assert ours.update(num_beams=4, unheard_of=1) == {"unheard_of": 1}
    assert ours.num_beams == 4
