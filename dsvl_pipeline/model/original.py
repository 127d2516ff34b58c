"""The original DeepSeek-VL configs, translated into the keys of transformers. Torch-free.

``config.json`` of ``model_type: multi_modality`` names its towers ("siglip_large_patch16_384") and
leaves their sizes to its own code. Sizes here come from the tensors. What no tensor tells:

- heads of SigLIP: one for every 64 channels (SigLIP-L: 1024 / 64 = 16);
- heads of SAM: the width of its relative position tables is the width of a head;
- heads of the language model: ``num_attention_heads`` of ``language_config``, by default 32;
- SAM's window: tables of ``2 * size - 1`` rows, where ``size`` is the grid for global layers and
  the window for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_pipeline.errors import CheckpointError

MODEL_TYPE = "multi_modality"
IMAGE_TOKEN = "<image_placeholder>"
SIGLIP, SIGLIP_OF_HYBRID, SAM = (
    "vision_model.vision_tower",
    "vision_model.vision_tower_low.vision_tower",
    "vision_model.vision_tower_high.vision_tower",
)

Shapes = Mapping[str, tuple[int, ...]]

_SIGLIP_L, _SIGLIP_HEAD_DIM = "siglip_large", 64
_BILINEAR, _BICUBIC = 2, 3


def translate_config(config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Give an original ``config.json`` in the keys of transformers.

    Args:
        config: The file's content.
        shapes: Shape of every tensor by name.
    """
    is_hybrid = is_hybrid_config(config)
    siglip = SIGLIP_OF_HYBRID if is_hybrid else SIGLIP
    _require_siglip_l(config, is_hybrid=is_hybrid)
    return {
        "model_type": "deepseek_vl_hybrid" if is_hybrid else "deepseek_vl",
        "dtype": config.get("torch_dtype"),
        "tie_word_embeddings": "language_model.lm_head.weight" not in shapes,
        "text_config": _text_config(config.get("language_config") or {}, shapes),
        "vision_config": _siglip_config(siglip, shapes),
        **({"high_res_vision_config": _sam_config(shapes)} if is_hybrid else {}),
    }


def translate_image_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the image processor's config that belongs to an original ``config.json``.

    Its own ``preprocessor_config.json`` is not read: it describes the high-resolution picture of
    the hybrid with ``do_normalize: false``, because the original towers normalise inside.

    Source: the conversion scripts of ``deepseek_vl`` and ``deepseek_vl_hybrid``, transformers 5.23.
    """
    towers = (config.get("vision_config") or {}).get("params") or {}
    if not is_hybrid_config(config):
        return {**_tower_image_config(towers, "", 384, (0.5,) * 3), "resample": _BICUBIC}
    low_res, high_res = towers.get("low_res_cfg") or {}, towers.get("high_res_cfg") or {}
    return {
        **_tower_image_config(low_res, "", 384, (0.5,) * 3),
        **_tower_image_config(high_res, "high_res_", 1024, None),
        "resample": _BILINEAR,
    }


def is_hybrid_config(config: Mapping[str, Any]) -> bool:
    """Return whether an original ``config.json`` describes the architecture with two towers."""
    return (config.get("vision_config") or {}).get("cls") == "HybridVisionTower"


def _tower_image_config(
    tower: Mapping[str, Any], prefix: str, side_px: int, default: tuple[float, ...] | None
) -> dict[str, Any]:
    return {
        f"{prefix}size": tower.get("image_size", side_px),
        f"{prefix}image_mean": tower.get("pixel_mean", default),
        f"{prefix}image_std": tower.get("pixel_std", default),
    }


def _text_config(config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    prefix = "language_model.model"
    vocab_size, hidden_size = _shape(shapes, f"{prefix}.embed_tokens.weight", 2)
    intermediate_size, _ = _shape(shapes, f"{prefix}.layers.0.mlp.gate_proj.weight", 2)
    return {
        **config,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": _num_layers(shapes, f"{prefix}.layers."),
    }


def _require_siglip_l(config: Mapping[str, Any], *, is_hybrid: bool) -> None:
    """Refuse the SigLIP variants whose heads are not 64 channels wide."""
    params = (config.get("vision_config") or {}).get("params") or {}
    tower = (params.get("low_res_cfg") or {}) if is_hybrid else params
    name = tower.get("model_name", _SIGLIP_L)
    if not name.startswith(_SIGLIP_L):
        raise CheckpointError(
            f"config.json of model_type '{MODEL_TYPE}' names the tower {name!r}; only "
            f"'{_SIGLIP_L}...', which the released checkpoints have, can be run"
        )


def _siglip_config(prefix: str, shapes: Shapes) -> dict[str, Any]:
    hidden_size, _, patch_size, _ = _shape(shapes, f"{prefix}.patch_embed.proj.weight", 4)
    _, num_positions, _ = _shape(shapes, f"{prefix}.pos_embed", 3)
    intermediate_size, _ = _shape(shapes, f"{prefix}.blocks.0.mlp.fc1.weight", 2)
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": _num_layers(shapes, f"{prefix}.blocks."),
        "num_attention_heads": hidden_size // _SIGLIP_HEAD_DIM,
        "patch_size": patch_size,
        "image_size": round(num_positions**0.5) * patch_size,
        "hidden_act": "gelu",
    }


def _sam_config(shapes: Shapes) -> dict[str, Any]:
    hidden_size, _, patch_size, _ = _shape(shapes, f"{SAM}.patch_embed.proj.weight", 4)
    _, grid_size, _, _ = _shape(shapes, f"{SAM}.pos_embed", 4)
    mlp_dim, _ = _shape(shapes, f"{SAM}.blocks.0.mlp.lin1.weight", 2)
    output_channels, _, _, _ = _shape(shapes, f"{SAM}.neck.0.weight", 4)
    num_layers = _num_layers(shapes, f"{SAM}.blocks.")
    tables = [_shape(shapes, f"{SAM}.blocks.{i}.attn.rel_pos_h", 2) for i in range(num_layers)]
    sizes = [(num_rows + 1) // 2 for num_rows, _ in tables]
    return {
        "hidden_size": hidden_size,
        "mlp_dim": mlp_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // tables[0][1],
        "patch_size": patch_size,
        "image_size": grid_size * patch_size,
        "output_channels": output_channels,
        "global_attn_indexes": [i for i, size in enumerate(sizes) if size == grid_size],
        "window_size": next((size for size in sizes if size != grid_size), grid_size),
    }


def _shape(shapes: Shapes, name: str, num_dims: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != num_dims:
        found = "is missing" if shape is None else f"has the shape {list(shape)}"
        raise CheckpointError(
            f"reading the sizes of an original DeepSeek-VL checkpoint: the tensor '{name}' "
            f"{found}; {num_dims} dimensions are needed; are weights and config.json of the same "
            f"checkpoint?"
        )
    return shape


def _num_layers(shapes: Shapes, prefix: str) -> int:
    indices = {
        name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)
    }
    return 1 + max(map(int, indices), default=-1)
