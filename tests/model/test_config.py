"""What is read from a checkpoint's JSON files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsvl_pipeline import hub
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.config import read_model_config
from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
from dsvl_pipeline.model.image_config import read_image_config
from tests.checkpoints import HIGH_RES_PX, LOW_RES_PX, Dialect, write_checkpoint


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "single"])
@pytest.mark.parametrize("dialect", ["original", "early", "current"])
def test_every_dialect_says_the_same(tmp_path: Path, is_hybrid: bool, dialect: Dialect) -> None:
    """Sizes from keys or from tensors, pictures from three kinds of file."""
    write_checkpoint(tmp_path / "expected", is_hybrid=is_hybrid)
    write_checkpoint(tmp_path / "found", is_hybrid=is_hybrid, dialect=dialect, num_shards=2)
    for read in (read_model_config, read_image_config):
        assert read(tmp_path / "found") == read(tmp_path / "expected")
    assert read_end_of_sequence(tmp_path / "found").eos_token_ids == (1,)


def test_the_values_are_those_of_the_files(tmp_path: Path) -> None:
    """Each from its own place: nothing is swapped, nothing is a default by accident."""
    write_checkpoint(tmp_path)
    model, image = read_model_config(tmp_path), read_image_config(tmp_path)
    assert model.image_token_id == 2
    assert model.num_image_tokens == 9
    assert (model.text.num_heads, model.text.num_kv_heads, model.text.head_dim) == (4, 2, 16)
    assert (model.text.rope_theta, model.text.rms_norm_eps) == (5000.0, 1e-5)
    assert (model.text.intermediate_size, model.text.max_positions) == (96, 512)
    assert (model.low_res.num_heads, model.low_res.activation) == (2, "gelu")
    assert model.high_res is not None
    assert (model.high_res.window_size, model.high_res.global_layers) == (3, (1, 3))
    assert (model.high_res.intermediate_size, model.high_res.output_channels) == (48, 8)
    assert image.high_res is not None
    assert (image.low_res.side_px, image.high_res.side_px) == (LOW_RES_PX, HIGH_RES_PX)
    assert (image.low_res.resample, image.high_res.resample) == (2, 3)
    assert (image.low_res.background, image.high_res.background) == (
        (127, 127, 127),
        (122, 116, 104),
    )


def test_tables_are_bit_equal_to_the_reference() -> None:
    """A table instead of arithmetic per pixel, and still not one bit apart."""
    from transformers.image_transforms import normalize, rescale

    image = read_image_config(hub.resolve("demo"))
    every_byte = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None], (3, 1, 256))
    for tower in (image.low_res, image.high_res):
        assert tower is not None
        rescaled = rescale(every_byte, tower.rescale_factor, input_data_format="channels_first")
        expected = normalize(rescaled, tower.mean, tower.std, input_data_format="channels_first")
        assert tower.table.dtype == np.float32
        assert np.array_equal(tower.table, expected[:, 0])


def test_older_rope_keys_are_read(tmp_path: Path) -> None:
    """Version 4 of transformers writes rope_theta and rope_scaling, 5 writes rope_parameters."""
    write_checkpoint(tmp_path)
    for keys in (
        {"rope_theta": 77.0, "rope_parameters": None},
        {"rope_theta": 77.0, "rope_parameters": None, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_theta": 77.0}},
    ):
        edit(tmp_path / "config.json", lambda config, keys=keys: config["text_config"].update(keys))
        assert read_model_config(tmp_path).text.rope_theta == 77.0


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "the rope type 'yarn'; only"),
        ("text_config", {"rope_scaling": {"type": "linear", "factor": 4}}, "rope type 'linear'"),
        ("text_config", {"attention_bias": True}, "attention_bias=True; only False can be run"),
        ("text_config", {"hidden_act": "tanh"}, "hidden_act='tanh'; it must be one of silu,"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act='relu'; it must be one of gelu,"),
        ("vision_config", {"image_size": [48, 64]}, r"size \[48, 64\]; it must be a square"),
        ("high_res_vision_config", {"use_rel_pos": False}, "use_rel_pos=False; only True can"),
        (
            "text_config",
            {"num_key_value_heads": 3},
            "num_key_value_heads=3, which does not divide 4",
        ),
        (
            "vision_config",
            {"num_attention_heads": 5},
            "num_attention_heads=5, which does not divid",
        ),
        (None, {"image_token_id": "<image>"}, "image_token_id='<image>'; it is no id"),
        (None, {"model_type": "llava"}, "model_type='llava'; this project runs 'deepseek_vl'"),
    ],
)
def test_what_cannot_be_run_is_refused(
    tmp_path: Path, section: str | None, change: dict[str, Any], message: str
) -> None:
    """Ignoring such a key would give wrong answers without a word."""
    write_checkpoint(tmp_path)
    edit(
        tmp_path / "config.json",
        lambda config: (config[section] if section else config).update(change),
    )
    with pytest.raises(CheckpointError, match=message):
        read_model_config(tmp_path)


def test_an_original_tower_with_unknown_heads_is_refused(tmp_path: Path) -> None:
    """No tensor tells SigLIP's heads, so only the variant with 64 channels a head is safe."""
    write_checkpoint(tmp_path, is_hybrid=False, dialect="original")
    edit(
        tmp_path / "config.json",
        lambda config: config["vision_config"]["params"].update(
            model_name="siglip_so400m_patch14_384"
        ),
    )
    with pytest.raises(CheckpointError, match="'siglip_so400m_patch14_384'; only 'siglip_large"):
        read_model_config(tmp_path)


def test_an_original_config_over_other_weights_names_the_tensor(tmp_path: Path) -> None:
    """Sizes come from the tensors, so a wrong file must be noticed while reading them."""
    write_checkpoint(tmp_path / "original", dialect="original")
    write_checkpoint(tmp_path / "current", dialect="current")
    (tmp_path / "original/config.json").rename(tmp_path / "current/config.json")
    with pytest.raises(CheckpointError, match=r"the tensor 'language_model.*' is missing; 2 dim"):
        read_model_config(tmp_path / "current")


def test_pictures_that_do_not_fit_the_towers_are_refused(tmp_path: Path) -> None:
    """Two files of one directory disagree: the run would fail at its first picture."""
    write_checkpoint(tmp_path)
    edit(
        tmp_path / "processor_config.json",
        lambda config: config["image_processor"].update(high_res_size={"height": 96, "width": 96}),
    )
    with pytest.raises(CheckpointError, match=r"high-resolution pictures of 96 px, but config\.js"):
        read_image_config(tmp_path)


def test_pictures_without_normalisation_are_refused(tmp_path: Path) -> None:
    """Switches that only change the reference's behaviour must not be overlooked."""
    write_checkpoint(tmp_path)
    edit(
        tmp_path / "processor_config.json",
        lambda config: config["image_processor"].update(do_normalize=False),
    )
    with pytest.raises(CheckpointError, match="has do_normalize=false; only true can be run"):
        read_image_config(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """An incomplete copy is the commonest fault."""
    with pytest.raises(CheckpointError, match=r"config\.json does not exist; a checkpoint is"):
        read_model_config(tmp_path)
    write_checkpoint(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has neither preprocessor_config\.json nor"):
        read_image_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_config", "num_attention_heads", 0),
        ("text_config", "hidden_size", "64"),
        ("text_config", "vocab_size", "many"),
        ("text_config", "max_position_embeddings", 2048.5),
        ("text_config", "intermediate_size", -8),
        ("text_config", "rope_parameters", [1]),
        ("vision_config", "patch_size", 0),
        ("high_res_vision_config", "window_size", 0),
        ("high_res_vision_config", "global_attn_indexes", 5),
    ],
)
def test_values_of_a_wrong_kind_are_checkpoint_errors(
    tmp_path: Path, section: str, key: str, value: Any
) -> None:
    """Not a division by zero in the middle of a model."""
    write_checkpoint(tmp_path)
    edit(tmp_path / "config.json", lambda config: config[section].update({key: value}))
    with pytest.raises(CheckpointError, match=r"of a wrong kind|a whole number above 0"):
        read_model_config(tmp_path)


def test_an_end_of_sequence_of_a_wrong_kind_is_a_checkpoint_error(tmp_path: Path) -> None:
    """An end of sequence that never comes would be found by its bill."""
    write_checkpoint(tmp_path)
    edit(tmp_path / "generation_config.json", lambda config: config.update(eos_token_id="x"))
    with pytest.raises(CheckpointError, match="of a wrong kind"):
        read_end_of_sequence(tmp_path)


def test_several_ends_of_sequence_are_kept(tmp_path: Path) -> None:
    """The file may hold a number or a list; without the file the tokenizer knows."""
    write_checkpoint(tmp_path)
    path = tmp_path / "generation_config.json"
    edit(path, lambda config: config.update(eos_token_id=[1, 0]))
    assert read_end_of_sequence(tmp_path).eos_token_ids == (1, 0)
    path.unlink()
    assert read_end_of_sequence(tmp_path).eos_token_ids == (1,)
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_end_of_sequence(tmp_path).eos_token_ids == ()
