"""Public models to directories and back, by ours and by transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch.testing import assert_close

import dsvl_pipeline
from dsvl_pipeline.errors import CheckpointError
from tests.api.examples import FAMILIES, family_name
from tests.api.pairs import Pair, make_ours, make_pair

KIND = "ForConditionalGeneration"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return str(request.param)


@pytest.fixture(scope="module")
def pair(family: str) -> Pair:
    """With equal weights."""
    return make_pair(family)


def ours(family: str, kind: str = KIND) -> Any:
    """The class."""
    return getattr(dsvl_pipeline, family_name(family, kind))


def theirs(family: str, kind: str = KIND) -> Any:
    """The class."""
    return getattr(transformers, family_name(family, kind))


def stored(directory: Path) -> set[str]:
    """Names in one file."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@torch.no_grad()
def test_a_saved_model_loads_in_the_reference_and_back(
    family: str, pair: Pair, tmp_path: Path
) -> None:
    """With equal scores, in one file and in shards."""
    wanted = pair.ours(**pair.inputs).logits
    for name, size in (("whole", "50GB"), ("shards", 200_000)):
        pair.ours.save_pretrained(tmp_path / name, max_shard_size=size)
        loaded = theirs(family).from_pretrained(tmp_path / name)
        assert_close(loaded(**pair.inputs).logits, wanted, rtol=0, atol=1e-5)
        again = ours(family).from_pretrained(tmp_path / name)
        assert torch.equal(again(**pair.inputs).logits, wanted)
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(pair.ours.state_dict()) == stored(tmp_path / "whole")
    assert len({*index["weight_map"].values()}) > 2
    pair.theirs.save_pretrained(tmp_path / "theirs")
    back = ours(family).from_pretrained(tmp_path / "theirs")
    assert_close(back(**pair.inputs).logits, wanted, rtol=0, atol=0)


def test_saving_again_leaves_no_old_shards(family: str, pair: Pair, tmp_path: Path) -> None:
    """Also into the directory that the model was loaded from."""
    pair.ours.save_pretrained(tmp_path, max_shard_size="0.2MB")
    model = ours(family).from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("model*"))] == ["model.safetensors"]
    assert torch.equal(ours(family).from_pretrained(tmp_path).lm_head.weight, model.lm_head.weight)


def test_a_variant_lies_beside_the_usual_files(family: str, pair: Pair, tmp_path: Path) -> None:
    """Saving one takes nothing from the other; and one of several processes saves nothing."""
    pair.ours.save_pretrained(tmp_path)
    pair.ours.save_pretrained(tmp_path, variant="fp16", max_shard_size="30KB")
    names = {path.name for path in tmp_path.glob("*.safetensors*")}
    assert {"model.safetensors", "model.safetensors.index.fp16.json"} <= names
    pair.ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors*")} == names
    pair.ours.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    assert ours(family).from_pretrained(tmp_path).device.type == "cpu"


def test_a_tied_head_is_saved_once(family: str, pair: Pair, tmp_path: Path) -> None:
    """And tied again by both; the file decides, not the config."""
    model = copy.deepcopy(pair.ours)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in stored(tmp_path)
    for kind in (ours(family), theirs(family)):
        loaded = kind.from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert loaded.config.tie_word_embeddings
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    loaded = ours(family).from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_heads_come_and_go(family: str, pair: Pair, tmp_path: Path) -> None:
    """A model without head is loaded from one with, and the other way round."""
    pair.ours.save_pretrained(tmp_path / "with")
    base, info = ours(family, "Model").from_pretrained(tmp_path / "with", output_loading_info=True)
    assert not info["missing_keys"]
    base.save_pretrained(tmp_path / "without")
    assert set(base.state_dict()) == stored(tmp_path / "without")
    for kind in (ours(family), theirs(family)):
        found = kind.from_pretrained(tmp_path / "without").model.state_dict()
        assert_close(found, pair.ours.model.state_dict(), rtol=0, atol=0)


def test_state_dicts_go_both_ways(family: str, pair: Pair) -> None:
    """Nothing missing, nothing more."""
    model = make_ours(family, pair.theirs)
    found = model.load_state_dict(pair.theirs.state_dict(), assign=True)
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert_close(model(**pair.inputs).logits, pair.ours(**pair.inputs).logits, rtol=0, atol=1e-5)
    reference = copy.deepcopy(pair.theirs)
    reference.load_state_dict(model.state_dict())


def test_random_weights_are_drawn_as_the_reference_draws_them(family: str, pair: Pair) -> None:
    """The same spread, and the same constants."""
    torch.manual_seed(0)
    found = make_ours(family, pair.theirs).state_dict()
    reference = theirs(family)(copy.deepcopy(pair.theirs.config)).state_dict()
    assert found.keys() == reference.keys()
    for name, wanted in reference.items():
        assert found[name].shape == wanted.shape
        if wanted.unique().numel() == 1:
            assert_close(found[name], wanted, rtol=0, atol=0, msg=name)
        elif wanted.numel() > 200:
            assert found[name].std() == pytest.approx(wanted.std().item(), rel=0.2), name


def test_what_does_not_fit_is_reported(
    family: str, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing weights are random, with a warning; other shapes are refused unless allowed."""
    tensors = pair.ours.state_dict()
    gone = "model.aligner." + ("proj" if family == "hybrid" else "linear2") + ".weight"
    del tensors[gone]
    pair.ours.save_pretrained(tmp_path, state_dict={**tensors, "extra": torch.zeros(3)})
    _, info = ours(family).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {gone}
    assert info["unexpected_keys"] == {"extra"}
    assert f"1 weights are not there and random, first '{gone}'" in caplog.text
    tensors[gone] = torch.zeros(2, 2)
    pair.ours.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(RuntimeError, match=r"first '.*' with \[2, 2\] instead of \[64, 64\]"):
        ours(family).from_pretrained(tmp_path)
    model = ours(family).from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert model.state_dict()[gone].shape == (64, 64)
    tensors[gone] = torch.zeros(64, 64, dtype=torch.int8)
    pair.ours.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(CheckpointError, match="quantised weights cannot be run"):
        ours(family).from_pretrained(tmp_path)


def test_the_usual_arguments_of_from_pretrained(family: str, pair: Pair, tmp_path: Path) -> None:
    """Taken, or refused with what to do instead; none is silently ignored."""
    pair.ours.save_pretrained(tmp_path / "sub")
    model = ours(family).from_pretrained(
        tmp_path,
        subfolder="sub",
        local_files_only=True,
        cache_dir=tmp_path,
        token="secret",
        use_safetensors=True,
        low_cpu_mem_usage=True,
        attn_implementation="eager",
        dtype="bfloat16",
        device_map="auto",
    )
    assert model.config._attn_implementation == model.config.text_config._attn_implementation
    assert model.config._attn_implementation == "eager"
    assert model.dtype == model.config.dtype == torch.bfloat16
    config = copy.deepcopy(pair.ours.config)
    config.text_config.num_hidden_layers = 1
    short = ours(family).from_pretrained(tmp_path / "sub", config=config)
    assert len(short.model.language_model.layers) == 1
    for options, message in (
        ({"quantization_config": {}}, "cannot take quantization_config"),
        ({"use_safetensors": False}, "only safetensors are read"),
        ({"attn_implementation": "fantasy"}, "it must be one of eager, sdpa"),
        ({"device_map": {"a": 0, "b": 1}}, "a model lies on one device"),
    ):
        with pytest.raises(ValueError, match=message):
            ours(family).from_pretrained(tmp_path / "sub", **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        ours(family).from_pretrained(tmp_path / "sub", speed=1)
    with pytest.raises(ValueError, match="only safetensors are written"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="max_shard_size is 'much'"):
        model.save_pretrained(tmp_path, max_shard_size="much")


def test_vocabularies_are_resized(family: str, pair: Pair) -> None:
    """Old rows stay, and scores and answers follow."""
    for is_tied in (False, True):
        model = copy.deepcopy(pair.ours)
        model.config.tie_word_embeddings = is_tied
        model.tie_weights()
        wanted = model(**pair.inputs).logits
        assert model.resize_token_embeddings(270, pad_to_multiple_of=8).num_embeddings == 272
        assert model.config.text_config.vocab_size == model.vocab_size == 272
        found = model(**pair.inputs).logits
        assert found.shape[-1] == 272
        assert_close(found[..., :259], wanted, rtol=0, atol=1e-5)
        assert model.network.config.text.vocab_size == 272  # the engine's
        model.resize_token_embeddings(259)
        assert_close(model(**pair.inputs).logits, wanted, rtol=0, atol=1e-5)
