"""Small random checkpoints for tests: both architectures, every dialect, one file or shards.

The reference is transformers' own class with random weights; what it saves is renamed here into
the older dialects, by a table of its own that shares nothing with the package's.

Sizes: SigLIP 48 px and SAM 128 px of patch 16, so grids of 3 x 3 (9 image tokens) and 8 x 8; SAM's
window of 3 needs padding to 9, and 8 -> 12 is the ratio of the 7B's 64 -> 96. The tokenizer is the
demo's without its phrases: 259 ids, image token 2, end of sequence 1.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.demo_checkpoint import files

Dialect = Literal["original", "early", "current"]

NUM_IMAGE_TOKENS, LOW_RES_PX, HIGH_RES_PX = 9, 48, 128
IMAGE_TOKEN_ID, EOS_TOKEN_ID, VOCAB_SIZE = 2, 1, 259


def write_checkpoint(
    directory: Path,
    *,
    is_hybrid: bool = True,
    dialect: Dialect = "current",
    num_shards: int = 1,
    has_own_head: bool = True,
    text: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Any:
    """Write a whole checkpoint (weights, configs, tokenizer) and return the transformers model.

    Args:
        directory: Created where needed; what lies there is replaced.
        is_hybrid: Two towers (7B-like) or one (1.3B-like).
        dialect: ``original`` (multi_modality), ``early`` (transformers 4.54 to early 5) or
            ``current`` (transformers 5.23).
        num_shards: More than one writes shards and their index.
        has_own_head: Whether the head is a tensor of its own or tied to the embeddings.
        text: Changes to the language model's config.
        dtype: Of the stored tensors; the returned model is in float32, rounded to it.
        seed: Of the weights.
    """
    model = reference_model(
        is_hybrid=is_hybrid, has_own_head=has_own_head, text=text, dtype=dtype, seed=seed
    )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_config(directory, model.config, dialect)
    write_processor(directory, is_hybrid=is_hybrid, dialect=dialect)
    tensors = rename(model.state_dict(), dialect, is_hybrid=is_hybrid)
    if not has_own_head:
        tensors = {name: t for name, t in tensors.items() if not name.endswith("lm_head.weight")}
    write_tensors(directory, {k: t.to(dtype) for k, t in tensors.items()}, num_shards=num_shards)
    return model


def reference_model(
    *,
    is_hybrid: bool = True,
    has_own_head: bool = True,
    text: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Any:
    """Build transformers' class with weights that are random wherever a default would hide."""
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
    )

    sections = {**_sections(text or {}), "tie_word_embeddings": not has_own_head}
    sections["image_token_id"] = IMAGE_TOKEN_ID
    torch.manual_seed(seed)
    if is_hybrid:
        model = DeepseekVLHybridForConditionalGeneration(DeepseekVLHybridConfig(**sections))
    else:
        del sections["high_res_vision_config"]
        model = DeepseekVLForConditionalGeneration(DeepseekVLConfig(**sections))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # norm weights scatter around 1, everything else (biases, tables, alpha) around 0
            is_scale = re.search(r"norm\d*\.weight$", name) is not None
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 16
            parameter.normal_(1.0 if is_scale else 0.0, fan_in**-0.5)
            parameter.copy_(parameter.to(dtype))
    model.tie_weights()
    return model.eval()


def write_tensors(directory: Path, tensors: Mapping[str, Tensor], *, num_shards: int = 1) -> None:
    """Write one safetensors file, or shards of interleaved tensors with their index."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if num_shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number in range(num_shards):
        shard = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        names = list(tensors)[number::num_shards]
        save_file({name: tensors[name] for name in names}, directory / shard)
        weight_map.update(dict.fromkeys(names, shard))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def write_config(directory: Path, config: Any, dialect: Dialect) -> None:
    """Write ``config.json`` and ``generation_config.json`` as the dialect has them."""
    found = config.to_dict()
    if dialect == "original":
        found = _original_config(found)
    elif dialect == "early":
        rope = found["text_config"].pop("rope_parameters")
        found["text_config"] |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    (directory / "config.json").write_text(json.dumps(found, indent=2))
    if dialect != "original":
        generation = {"bos_token_id": 0, "eos_token_id": EOS_TOKEN_ID, "pad_token_id": 1}
        (directory / "generation_config.json").write_text(json.dumps(generation))


def write_processor(directory: Path, *, is_hybrid: bool, dialect: Dialect) -> None:
    """Write tokenizer, chat template and image processor config as the dialect has them."""
    _processor(is_hybrid=is_hybrid).save_pretrained(directory)
    current = directory / "processor_config.json"
    config = json.loads(current.read_text())
    if dialect == "early":
        (directory / "preprocessor_config.json").write_text(
            json.dumps(config.pop("image_processor"))
        )
        current.write_text(json.dumps(config))
    elif dialect == "original":
        (directory / "chat_template.jinja").unlink()
        current.write_text(
            json.dumps(
                {
                    "add_special_token": False,
                    "ignore_id": -100,
                    "image_tag": files.IMAGE,
                    "mask_prompt": True,
                    "num_image_tokens": NUM_IMAGE_TOKENS,
                    "processor_class": "VLChatProcessor",
                    "sft_format": "deepseek",
                }
            )
        )
        (directory / "preprocessor_config.json").write_text(
            json.dumps(
                {
                    "do_normalize": not is_hybrid,
                    "image_processor_type": "VLMImageProcessor",
                    "image_size": HIGH_RES_PX if is_hybrid else LOW_RES_PX,
                    "min_size": 14,
                    "processor_class": "VLChatProcessor",
                    "rescale_factor": 1 / 255,
                }
            )
        )


def rename(
    tensors: Mapping[str, Tensor], dialect: Dialect, *, is_hybrid: bool
) -> dict[str, Tensor]:
    """Give the tensors of transformers 5.23 the names and shapes of another dialect."""
    if dialect == "current":
        return dict(tensors)
    if dialect == "early":
        return {
            re.sub(r"^model\.vision_model\.", "model.vision_model.vision_model.", name): tensor
            for name, tensor in tensors.items()
        }
    return _original_tensors(dict(tensors), is_hybrid=is_hybrid)


def _sections(text: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 3,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            "rms_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": EOS_TOKEN_ID,
            "pad_token_id": 1,
            **text,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 80,
            "image_size": LOW_RES_PX,
            "patch_size": 16,
            "hidden_act": "gelu",
            "vision_use_head": False,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
        "high_res_vision_config": {
            "model_type": "sam_vision_model",
            "hidden_size": 32,
            "mlp_dim": 48,
            "image_size": HIGH_RES_PX,
            "patch_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "output_channels": 8,
            "global_attn_indexes": [1, 3],
            "window_size": 3,
        },
    }


def _processor(*, is_hybrid: bool) -> Any:
    from transformers import DeepseekVLHybridProcessor, DeepseekVLProcessor
    from transformers.models.deepseek_vl import image_processing_pil_deepseek_vl as single
    from transformers.models.deepseek_vl_hybrid import (
        image_processing_pil_deepseek_vl_hybrid as hybrid,
    )

    settings: dict[str, Any] = {
        "size": {"height": LOW_RES_PX, "width": LOW_RES_PX},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    if is_hybrid:
        image_processor = hybrid.DeepseekVLHybridImageProcessorPil(
            **settings,
            high_res_size={"height": HIGH_RES_PX, "width": HIGH_RES_PX},
            resample=2,
        )
    else:
        image_processor = single.DeepseekVLImageProcessorPil(**settings)
    kind = DeepseekVLHybridProcessor if is_hybrid else DeepseekVLProcessor
    return kind(
        image_processor=image_processor,
        tokenizer=files.tokenizer(),
        chat_template=files.CHAT_TEMPLATE,
        num_image_tokens=NUM_IMAGE_TOKENS,
    )


def _original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name towers instead of sizes, and leave out of the language model what tensors tell."""
    clip_mean, clip_std = (
        [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711],
    )
    low_res: dict[str, Any] = {
        "image_size": LOW_RES_PX,
        "model_name": "siglip_large_patch16_384",
        "select_feature": "same",
        "select_layer": -1,
    }
    vision: dict[str, Any] = {"cls": "CLIPVisionTower", "model_type": "vision", "params": low_res}
    if "high_res_vision_config" in config:
        high_res = {
            "image_size": HIGH_RES_PX,
            "model_name": "sam_b_downsample",
            "pixel_mean": clip_mean,
            "pixel_std": clip_std,
        }
        low_res |= {"pixel_mean": [0.5, 0.5, 0.5], "pixel_std": [0.5, 0.5, 0.5]}
        vision["cls"] = "HybridVisionTower"
        vision["params"] = {
            "concat_type": "tuple",
            "high_res_cfg": high_res,
            "low_res_cfg": low_res,
        }
    text = config["text_config"]
    kept = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps")
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": {"depth": 2}},
        "vision_config": vision,
        "language_config": {
            "model_type": "llama",
            "rope_theta": text["rope_parameters"]["rope_theta"],
            **{key: text[key] for key in kept},
        },
        "torch_dtype": "bfloat16",
    }


_ORIGINAL_NAMES = {
    r"^lm_head\.": "language_model.lm_head.",
    r"^model\.language_model\.": "language_model.model.",
    r"^model\.aligner\.vision_proj\.": "aligner.low_up_proj.",
    r"^model\.aligner\.high_res_vision_proj\.": "aligner.high_up_proj.",
    r"^model\.aligner\.proj\.": "aligner.layers.1.",
    r"^model\.aligner\.linear1\.": "aligner.layers.0.",
    r"^model\.aligner\.linear2\.": "aligner.layers.2.",
    r"^model\.high_res_vision_alpha$": "HIGH.hd_alpha_downsamples",
    r"^model\.high_res_vision_proj\.conv1\.": "HIGH.downsamples.0.",
    r"^model\.high_res_vision_proj\.conv2\.": "HIGH.downsamples.1.",
    r"^model\.high_res_vision_neck\.": "HIGH.neck_hd.",
    r"^model\.high_res_vision_model\.vision_encoder\.": "HIGH.",
    r"(neck\w*)\.conv1\.": r"\1.0.",
    r"(neck\w*)\.layer_norm1\.": r"\1.1.",
    r"(neck\w*)\.conv2\.": r"\1.2.",
    r"(neck\w*)\.layer_norm2\.": r"\1.3.",
    r"^model\.vision_model\.embeddings\.position_embedding\.weight$": "LOW.pos_embed",
    r"^model\.vision_model\.embeddings\.patch_embedding\.": "LOW.patch_embed.proj.",
    r"^model\.vision_model\.encoder\.": "LOW.",
    r"^model\.vision_model\.post_layernorm\.": "LOW.norm.",
    r"patch_embed\.projection\.": "patch_embed.proj.",
    r"^(HIGH|LOW)\.layers\.": r"\1.blocks.",
    r"^((?:HIGH|LOW)\.blocks\.\d+)\.layer_norm": r"\1.norm",
    r"^(LOW\.blocks\.\d+)\.self_attn\.out_proj\.": r"\1.attn.proj.",
}


def _original_tensors(tensors: dict[str, Tensor], *, is_hybrid: bool) -> dict[str, Tensor]:
    for layer in range(2):  # the original fuses SigLIP's three projections
        prefix = f"model.vision_model.encoder.layers.{layer}.self_attn"
        for leaf in ("weight", "bias"):
            parts = [tensors.pop(f"{prefix}.{part}_proj.{leaf}") for part in "qkv"]
            tensors[f"LOW.blocks.{layer}.attn.qkv.{leaf}"] = torch.cat(parts)
    towers = {
        "LOW": "vision_model.vision_tower" + ("_low.vision_tower" if is_hybrid else ""),
        "HIGH": "vision_model.vision_tower_high.vision_tower",
    }
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _ORIGINAL_NAMES.items():
            name = re.sub(pattern, replacement, name)
        if name == "LOW.pos_embed":
            tensor = tensor[None]
        renamed[re.sub("^(LOW|HIGH)", lambda found: towers[found[1]], name)] = tensor
    # what the released files hold besides, and nobody reads
    extra = ["attn_pool.latent", "attn_pool.q.weight", "attn_pool.mlp.fc1.bias"]
    renamed |= {f"{towers['LOW']}.{name}": torch.ones(3) for name in extra}
    renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    if is_hybrid:
        renamed["vision_model.high_layer_norm.weight"] = torch.ones(4)
        renamed["vision_model.low_layer_norm.bias"] = torch.ones(4)
    return renamed
