"""The public configs against those of transformers: values, dicts and files."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers

import dsvl_pipeline
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.config import read_model_config
from tests.api.examples import FAMILIES, family_name
from tests.checkpoints import Dialect, write_checkpoint

CHANGES: list[dict[str, Any]] = [
    {},
    {
        "text_config": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
        "vision_config": {"image_size": 48, "hidden_act": "gelu", "dtype": "bfloat16"},
        "image_token_id": 2,
        "dtype": "float16",
    },
    {"text_config": {"rope_theta": 5.0, "output_hidden_states": True, "my_own": [1, (2, 3)]}},
    {"text_config": {"rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32"}},
    {"text_config": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 9.0}}},
    {
        "architectures": ["X"],
        "num_labels": 5,
        "my_own": {"a": 1},
        "num_beams": 3,
        "use_cache": True,
    },
    {"id2label": {"0": "a"}, "label2id": {"a": 0}, "return_dict": False, "name_or_path": "x/y"},
    {"attn_implementation": "eager", "output_attentions": True, "tie_word_embeddings": False},
]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return str(request.param)


@pytest.fixture
def ours(family: str) -> Any:
    """Our class."""
    return getattr(dsvl_pipeline, family_name(family, "Config"))


@pytest.fixture
def theirs(family: str) -> Any:
    """That of transformers."""
    return getattr(transformers, family_name(family, "Config"))


def without_version(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out which version of transformers wrote it."""
    return {key: value for key, value in found.items() if key != "transformers_version"}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_values_and_dicts_are_the_references(
    ours: Any, theirs: Any, changes: dict[str, Any]
) -> None:
    """Attribute by attribute, defaults above all."""
    found, wanted = ours(**changes), theirs(**changes)
    for name in (None, *found.sub_configs):
        mine, other = ((getattr(one, name) if name else one) for one in (found, wanted))
        for key in other:
            if key not in (*found.sub_configs, "_post_init_done"):
                assert getattr(mine, key, None) == getattr(other, key), key
    assert found.to_dict() == without_version(wanted.to_dict())
    assert found.to_diff_dict() == without_version(wanted.to_diff_dict())


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_files_are_understood_both_ways(
    ours: Any, theirs: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    """What one saves the other loads, with nothing lost."""
    found = ours(**changes)
    found.save_pretrained(tmp_path / "ours")
    read = theirs.from_pretrained(tmp_path / "ours")
    assert without_version(read.to_dict()) == ours.from_pretrained(tmp_path / "ours").to_dict()
    read.save_pretrained(tmp_path / "theirs")
    back = ours.from_pretrained(tmp_path / "theirs")
    assert without_version(back.to_dict()) == ours.from_pretrained(tmp_path / "ours").to_dict()


@pytest.mark.parametrize("dialect", ["original", "early", "current"])
def test_a_checkpoints_config_gives_its_shape(
    family: str, ours: Any, dialect: Dialect, tmp_path: Path
) -> None:
    """The same that the engine reads, and again from what is saved."""
    write_checkpoint(tmp_path / "from", is_hybrid=family == "hybrid", dialect=dialect)
    config = ours.from_pretrained(tmp_path / "from")
    assert config.model_config() == read_model_config(tmp_path / "from")
    assert config.tie_word_embeddings is False
    config.save_pretrained(tmp_path / "to")
    assert read_model_config(tmp_path / "to") == config.model_config()


@pytest.fixture
def saved(ours: Any, tmp_path: Path) -> Path:
    """A directory with a config that differs from the defaults, at its root and in ``sub``."""
    config = ours(
        text_config={"vocab_size": 77, "hidden_size": 64, "num_attention_heads": 4},
        vision_config={"image_size": 48},
        image_token_id=2,
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "sub")
    return tmp_path


OPTIONS: list[dict[str, Any]] = [
    {"image_token_id": 7, "nothing": 1, "return_dict": False},
    {"text_config": {"vocab_size": 20}, "vision_config": {"my_own": 3}},
    {"attn_implementation": "eager", "output_attentions": True, "name_or_path": "x"},
    {"num_labels": 3, "revision": "main", "trust_remote_code": True},
    {"subfolder": "sub", "local_files_only": True, "cache_dir": None, "token": None},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_replace_values_of_the_file(
    ours: Any, theirs: Any, saved: Path, options: dict[str, Any]
) -> None:
    """And those that name none are handed back."""
    found, unused = ours.from_pretrained(saved, return_unused_kwargs=True, **options)
    wanted, theirs_unused = theirs.from_pretrained(saved, return_unused_kwargs=True, **options)
    assert found.to_dict() == without_version(wanted.to_dict())
    assert found._attn_implementation == wanted._attn_implementation
    assert unused == theirs_unused
    assert ours.from_pretrained(saved, **options) == found


def test_dtypes_are_torchs(ours: Any, saved: Path) -> None:
    """Under both names; ``auto`` is what the file says."""
    for options in ({}, {"dtype": "auto"}, {"torch_dtype": "auto"}, {"torch_dtype": None}):
        assert ours.from_pretrained(saved, **options).dtype is torch.bfloat16
    for options in ({"dtype": torch.float16}, {"torch_dtype": "float16"}):
        config = ours.from_pretrained(saved, **options)
        assert config.dtype is config.torch_dtype is torch.float16
        assert config.to_dict()["dtype"] == "float16"


def test_a_section_is_read_from_the_whole(ours: Any, saved: Path, tmp_path: Path) -> None:
    """By its own class, and saved alone it is the same again."""
    config = ours.from_pretrained(saved)
    for key, kind in config.sub_configs.items():
        section = kind.from_pretrained(saved)
        assert section == getattr(config, key)
        section.save_pretrained(tmp_path / key)
        assert kind.from_pretrained(tmp_path / key) == section
        other = next(one for name, one in config.sub_configs.items() if name != key)
        with pytest.raises(CheckpointError, match=r"model_type='[a-z_]+', which .* is not for"):
            other.from_pretrained(tmp_path / key)


def test_files_by_name(ours: Any, saved: Path) -> None:
    """A JSON file itself, under any name."""
    wanted = ours.from_pretrained(saved)
    (saved / "config.json").rename(saved / "other.json")
    assert ours.from_pretrained(saved / "other.json") == wanted
    assert ours.from_json_file(str(saved / "other.json")) == wanted
    wanted.to_json_file(saved / "whole.json", use_diff=False)
    assert ours.from_json_file(saved / "whole.json") == wanted


@pytest.mark.parametrize("name", ["nope", "no/such/place"])
def test_missing_and_broken_files_are_os_errors(ours: Any, name: str, tmp_path: Path) -> None:
    """As a script expects that was written for the reference."""
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(OSError, match=r"has no config\.json|does not exist") as caught:
            ours.from_pretrained(place)
        assert isinstance(caught.value, CheckpointError)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OSError, match="cannot be read as JSON"):
        ours.from_pretrained(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A repository, and what it was asked; it gives those of its files that are asked for."""
    repository, asked = tmp_path / "repository", []

    def download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append({"name": name, **options})
        snapshot = tmp_path / f"snapshot {len(asked)}"
        for path in repository.rglob("*"):
            inner = path.relative_to(repository)
            if path.is_file() and any(fnmatch(str(inner), one) for one in allow_patterns):
                (snapshot / inner).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / inner)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return repository, asked


def test_a_hub_id_downloads_json_only(
    family: str, ours: Any, hub: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A config must not cost 15 GB; how the hub is asked is the caller's."""
    repository, asked = hub
    write_checkpoint(repository / "sub", is_hybrid=family == "hybrid")
    options = {"cache_dir": tmp_path, "token": "hf_x", "local_files_only": True}
    config = ours.from_pretrained("some/model", revision="abc", subfolder="sub", **options)
    assert config == ours.from_pretrained(repository / "sub")
    wanted = {"name": "some/model", "revision": "abc", "force_download": False, **options}
    assert asked == [wanted]
    assert not list(tmp_path.glob("snapshot*/**/*.safetensors"))
    assert list(tmp_path.glob("snapshot*/**/tokenizer.json"))


def test_the_original_dialect_needs_its_weights(
    family: str, ours: Any, hub: tuple[Path, list[dict[str, Any]]]
) -> None:
    """Only tensors tell its sizes, so these are fetched when the config is of that kind."""
    repository, asked = hub
    write_checkpoint(repository, is_hybrid=family == "hybrid", dialect="original")
    config = ours.from_pretrained("some/model")
    assert config == ours.from_pretrained(repository)
    assert config.text_config.hidden_size == 64
    assert len(asked) == 2
    with pytest.raises(CheckpointError, match="sizes lie in the weights; give the directory"):
        ours.from_pretrained(repository / "config.json")


def test_what_cannot_be_run_is_refused(ours: Any) -> None:
    """When a model is to be built, not when the config is read."""
    config = ours(text_config={"rope_scaling": {"type": "linear", "factor": 2.0}})
    with pytest.raises(CheckpointError, match="the rope type 'linear'; only 'default'") as caught:
        config.model_config()
    assert isinstance(caught.value, ValueError)


def test_wrong_sections_are_refused(ours: Any) -> None:
    """Of other models, and what is no config at all."""
    with pytest.raises(TypeError, match="text_config is a int; it must be a dict, a config or Non"):
        ours(text_config=5)
    with pytest.raises(ValueError, match="VisionConfig takes the model_type 'siglip_vision_model'"):
        ours(vision_config={"model_type": "clip_vision_model"})
    with pytest.raises(ValueError, match="hidden_size is 65 and num_attention_heads 4; they"):
        ours(text_config={"hidden_size": 65, "num_attention_heads": 4})
    with pytest.raises(ValueError, match="output_attentions needs attn_implementation 'eager'"):
        ours(attn_implementation="sdpa", output_attentions=True)
    with pytest.raises(ValueError, match="dtype is 'float15'; it must be one of torch's"):
        ours(dtype="float15")


def test_sections_may_be_configs(ours: Any, theirs: Any) -> None:
    """Our own stay the same object, those of transformers are read."""
    wanted = theirs(text_config={"vocab_size": 50}, vision_config={"image_size": 32})
    sections = {key: getattr(wanted, key) for key in ours.sub_configs}
    config = ours(**sections)
    assert config.to_dict() == without_version(wanted.to_dict())
    again = ours(**{key: getattr(config, key) for key in ours.sub_configs})
    assert again == config
    assert again.text_config is config.text_config
    assert again.get_text_config() is again.get_text_config(decoder=True) is again.text_config
    assert again.get_text_config(encoder=True) is again


def test_attention_is_chosen_by_section_as_the_reference_does(ours: Any, theirs: Any) -> None:
    """By name for all, by a dict for some; who asks for attentions gets those that have them."""
    found, wanted = ours(), theirs()
    chosen = {"": "sdpa", "text_config": "eager"}
    for change in ("eager", chosen, {"vision_config": "sdpa"}, None, {"text_config": "sdpa"}):
        for config in (found, wanted):
            config._attn_implementation = change
        for key in (None, *ours.sub_configs):
            mine, other = ((getattr(one, key) if key else one) for one in (found, wanted))
            assert mine._attn_implementation == other._attn_implementation
    for config in (found, wanted):
        config.output_attentions = True
        assert config._attn_implementation == config.text_config._attn_implementation == "eager"
        config._attn_implementation = "sdpa"
        with pytest.raises(ValueError, match="eager"):
            config.output_attentions = True


def test_configs_are_values(ours: Any) -> None:
    """They can be changed, copied, pickled, compared and gone through."""
    config = ours(text_config={"vocab_size": 50}, my_own=1)
    for same in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config
        same.update({"image_token_id": 3, "my_own": 2})
        same.text_config.vocab_size = 60
        assert same != config
        assert (same.my_own, config.my_own, config.text_config.vocab_size) == (2, 1, 50)
        assert same.model_config().text.vocab_size == 60
    assert {"text_config", "my_own"} <= {*config}
    assert json.loads(config.to_json_string())["text_config"]["vocab_size"] == 50
    assert '"my_own": 1' in repr(config)


def test_the_older_name_of_the_rope_keeps_its_theta(ours: Any) -> None:
    """A change of the kind must not change the base without a word."""
    text = ours(text_config={"rope_theta": 5.0}).text_config
    text.rope_scaling = {"rope_type": "linear", "factor": 2.0}
    assert text.rope_scaling == {"rope_theta": 5.0, "rope_type": "linear", "factor": 2.0}
    text.rope_scaling = None
    assert text.rope_parameters is None


def test_settings_of_generate_stay_out_of_the_file(ours: Any, tmp_path: Path) -> None:
    """They belong into the other one."""
    config = ours(num_beams=3)
    config.save_pretrained(tmp_path)
    config.temperature = 0.5
    with pytest.raises(
        ValueError, match=r"temperature, which belong into model\.generation_config"
    ):
        config.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="hf upload"):
        ours().save_pretrained(tmp_path, push_to_hub=True)


def test_caches_of_transformers_take_it(ours: Any) -> None:
    """Scripts make their own from the model's config."""
    cache = transformers.DynamicCache(config=ours(text_config={"num_hidden_layers": 3}))
    assert len(cache.layers) == 3


@pytest.mark.parametrize("value", ["64", 64.5, 63])
def test_a_width_that_heads_cannot_share_is_named(value: Any) -> None:
    """Whatever it is."""
    with pytest.raises(ValueError, match=f"hidden_size is {value!r} and num_attention_heads 32"):
        dsvl_pipeline.DeepseekVLConfig(text_config={"hidden_size": value})
