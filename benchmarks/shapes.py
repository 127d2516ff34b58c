"""The 7B hybrid's shape, and a tiny one, with seeded random weights and no files to load."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsvl_pipeline.model.config import ModelConfig, read_model_config
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import ImageConfig, read_image_config

IMAGE_TOKEN_ID, EOS_TOKEN_ID = 2, 1
FIRST_WORD_ID = 3  # ids below are special

# As transformers writes them: what is left out has the values of its classes, which are the 7B's.
FULL: Mapping[str, Any] = {
    "model_type": "deepseek_vl_hybrid",
    "image_token_id": IMAGE_TOKEN_ID,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_hidden_layers": 30,
        "vocab_size": 102400,
        "max_position_embeddings": 16384,
        "bos_token_id": 0,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": EOS_TOKEN_ID,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "image_size": 384,
        "patch_size": 16,
        "hidden_act": "gelu",
        "vision_use_head": False,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
    "high_res_vision_config": {"model_type": "sam_vision_model", "image_size": 1024},
}

TINY: Mapping[str, Any] = {
    **FULL,
    "text_config": {
        **FULL["text_config"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 512,
        "max_position_embeddings": 512,
    },
    "vision_config": {
        **FULL["vision_config"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "image_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    },
    "high_res_vision_config": {
        "model_type": "sam_vision_model",
        "hidden_size": 32,
        "mlp_dim": 48,
        "image_size": 128,
        "patch_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "output_channels": 8,
        "global_attn_indexes": [1, 3],
        "window_size": 3,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's and its pictures' configuration.

    Attributes:
        config: What ``config.json`` would hold.
        model: The same, read by this project.
        images: How bytes become pixel values.
    """

    config: Mapping[str, Any]
    model: ModelConfig
    images: ImageConfig


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Read `FULL` or `TINY` the way a checkpoint's files are read."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_configs(directory, config)
        return Shape(
            config=config,
            model=read_model_config(directory),
            images=read_image_config(directory),
        )


def write_configs(directory: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``preprocessor_config.json``."""
    low_px = config["vision_config"]["image_size"]
    high_px = config["high_res_vision_config"]["image_size"]
    pictures = {
        "size": {"height": low_px, "width": low_px},
        "high_res_size": {"height": high_px, "width": high_px},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(pictures))


def build_model(
    shape: Shape, *, dtype: torch.dtype, device: str, quantization: str = "none", seed: int = 0
) -> DeepseekVL:
    """Make the model on its device, with random weights that keep activations around 1.

    Args:
        shape: From `read_shape`.
        dtype: Of all weights, before quantisation.
        device: As torch names it.
        quantization: ``none`` or ``fp8``.
        seed: Of the weights.
    """
    with torch.device(device):
        model = DeepseekVL(shape.model)
    # with the device once more, for a buffer that is always made on the CPU
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    fill_randomly(model, seed)
    if quantization == "fp8":
        for linear in model.quantizable().values():
            linear.quantize_()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # the float32 weights that it was made with
    return model


@torch.no_grad()
def fill_randomly(model: nn.Module, seed: int) -> None:
    """Draw every weight; layers neither explode nor vanish, and no table stays zero.

    Works on this project's model and on that of transformers, whose parts have other names.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1.0)
        elif "rel_pos" in name or "alpha" in name:
            parameter.normal_(0.0, 0.2, generator=generator)
        elif parameter.dim() < 2:
            parameter.normal_(0.0, 0.02, generator=generator)
        elif "embed" in name and "patch" not in name:  # rows are looked up, nothing is summed
            parameter.normal_(0.0, 0.5, generator=generator)
        else:
            fan_in = math.prod(parameter.shape[1:])
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)


def decode_nothing(ids: Sequence[int]) -> str:
    """Stand in for the tokenizer: the figures end at token ids."""
    return ""
