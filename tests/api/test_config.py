"""The public configs against those of transformers: values, dicts and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
    config.save_pretrained(tmp_path / "to")
    assert read_model_config(tmp_path / "to") == config.model_config()


def test_what_cannot_be_run_is_refused(ours: Any) -> None:
    """When a model is to be built, not when the config is read."""
    config = ours(text_config={"rope_scaling": {"type": "linear", "factor": 2.0}})
    with pytest.raises(CheckpointError, match="the rope type 'linear'; only 'default'") as caught:
        config.model_config()
    assert isinstance(caught.value, ValueError)
