"""The ``Auto`` classes: which class a checkpoint gets, here and in transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dsvl_pipeline
from dsvl_pipeline.errors import CheckpointError

SINGLE = {
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
    "image_token_id": 3,
}


def test_a_checkpoint_with_two_towers_gets_the_hybrid_classes() -> None:
    """By its config."""
    names = {
        "AutoConfig": "Config",
        "AutoProcessor": "Processor",
        "AutoImageProcessor": "ImageProcessor",
        "AutoModelForImageTextToText": "ForConditionalGeneration",
        "AutoModel": "Model",
    }
    for auto, kind in names.items():
        made = getattr(dsvl_pipeline, auto).from_pretrained("demo")
        assert type(made).__name__ == f"DeepseekVLHybrid{kind}"


def test_a_processor_that_lies_alone_is_found(tmp_path: Path) -> None:
    """By what its own files say."""
    dsvl_pipeline.AutoProcessor.from_pretrained("demo").save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    for auto, kind in {
        "AutoProcessor": "Processor",
        "AutoImageProcessor": "ImageProcessor",
    }.items():
        made = getattr(dsvl_pipeline, auto).from_pretrained(tmp_path)
        assert type(made).__name__ == f"DeepseekVLHybrid{kind}"
    with pytest.raises(CheckpointError, match="says nowhere which processor it is of"):
        dsvl_pipeline.AutoProcessor.from_pretrained(tmp_path.parent)


def test_a_config_with_one_tower_gets_the_others(tmp_path: Path) -> None:
    """Random weights, and what was saved of them."""
    config = dsvl_pipeline.AutoConfig.for_model("deepseek_vl", **SINGLE)
    model = dsvl_pipeline.AutoModelForImageTextToText.from_config(config)
    assert type(model) is dsvl_pipeline.DeepseekVLForConditionalGeneration
    assert type(dsvl_pipeline.AutoModel.from_config(config)) is dsvl_pipeline.DeepseekVLModel
    model.save_pretrained(tmp_path)
    again = dsvl_pipeline.AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert type(dsvl_pipeline.AutoConfig.from_pretrained(tmp_path)) is type(config)


def test_other_models_are_refused(tmp_path: Path) -> None:
    """With what there is."""
    (tmp_path / "config.json").write_text('{"model_type": "llava"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="the Auto classes take deepseek_vl, deepseek_vl_h"):
        dsvl_pipeline.AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="there are deepseek_vl, deepseek_vl_hybrid"):
        dsvl_pipeline.AutoConfig.for_model("llava")
    with pytest.raises(OSError, match=r"AutoConfig\.from_pretrained"):
        dsvl_pipeline.AutoConfig()


def test_transformers_gives_ours_once_it_is_told(tmp_path: Path) -> None:
    """In a process of its own, for it is told for good; also of files that name its classes."""
    program = f"""
import transformers, dsvl_pipeline
from dsvl_pipeline import hub
path, saved = str(hub.resolve("demo")), {str(tmp_path)!r}
dsvl_pipeline.register_with_transformers()
dsvl_pipeline.register_with_transformers()
dsvl_pipeline.AutoProcessor.from_pretrained(path).save_pretrained(saved)
dsvl_pipeline.AutoConfig.from_pretrained(path).save_pretrained(saved)
for name in ("Config", "Model", "ModelForImageTextToText", "Processor", "ImageProcessor"):
    made = getattr(transformers, f"Auto{{name}}").from_pretrained(path)
    print(type(made) is getattr(dsvl_pipeline, type(made).__name__))
for name in ("Config", "Processor", "ImageProcessor"):
    made = getattr(transformers, f"Auto{{name}}").from_pretrained(saved)
    print(type(made) is getattr(dsvl_pipeline, type(made).__name__))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"] * 8, done.stderr


def test_without_transformers_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    told: Any = pytest.raises(ImportError, match="needs transformers, which is not installed; pip")
    with told:
        dsvl_pipeline.register_with_transformers()
