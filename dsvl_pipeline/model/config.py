"""What a checkpoint's ``config.json`` says about the model's shape. Torch-free.

The same values come out for every dialect: a config of transformers 4.54 or 5.23 is read as it is,
and the original one, which names towers rather than sizes, is first translated by `original`.
Keys that a file leaves out have the defaults of the transformers classes, because both transformers
and the original code leave out what equals them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model import original
from dsvl_pipeline.model.json_files import (
    get,
    read_json,
    reading,
    require,
    side,
    token_id,
)
from dsvl_pipeline.model.tensors import list_tensors

_Name = TypeVar("_Name", bound=str)
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

MODEL_TYPES = ("deepseek_vl", "deepseek_vl_hybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The language model's shape. Released checkpoints have ``silu``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiglipConfig:
    """The low-resolution tower's shape. ``gelu`` is exact, ``gelu_tanh`` its approximation."""

    image_size_px: int
    patch_size_px: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    activation: Literal["gelu", "gelu_tanh"]

    @property
    def grid_size(self) -> int:
        """Patches along one edge: 24 for 384 px."""
        return self.image_size_px // self.patch_size_px


@dataclass(frozen=True, slots=True, kw_only=True)
class SamConfig:
    """The high-resolution tower's shape.

    Attributes:
        global_layers: Indices of the layers that attend over the whole grid, ascending.
        output_channels: Channels after the neck; the projection multiplies them by four.
    """

    image_size_px: int
    patch_size_px: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    window_size: int
    global_layers: tuple[int, ...]
    output_channels: int

    @property
    def grid_size(self) -> int:
        """Patches along one edge: 64 for 1024 px."""
        return self.image_size_px // self.patch_size_px


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole model's shape; ``high_res`` is None for the single-tower architecture."""

    text: LlamaConfig
    low_res: SiglipConfig
    high_res: SamConfig | None
    image_token_id: int

    @property
    def is_hybrid(self) -> bool:
        """Whether there is a high-resolution tower."""
        return self.high_res is not None

    @property
    def num_image_tokens(self) -> int:
        """Tokens that one image takes in a prompt: 576 in the real checkpoints."""
        return self.low_res.grid_size**2


def read_model_config(directory: Path) -> ModelConfig:
    """Read a checkpoint's ``config.json``, of any dialect.

    Raises:
        CheckpointError: It is missing or broken, of another model, or asks for something that the
            released checkpoints do not use and this project does not run.
    """
    return model_config_of(read_config(directory), str(directory))


def read_config(directory: Path) -> dict[str, Any]:
    """Read a checkpoint's ``config.json`` in the keys of transformers, whatever its dialect.

    The original dialect leaves sizes to the tensors, so that the weights must be there as well.

    Raises:
        CheckpointError: It is missing or broken, or of another model.
    """
    config = read_json(directory / "config.json")
    model_type = config.get("model_type")
    if model_type in MODEL_TYPES:
        return config
    if model_type != original.MODEL_TYPE:
        raise CheckpointError(
            f"{directory}/config.json has model_type={model_type!r}; this project runs "
            f"{', '.join(map(repr, MODEL_TYPES))} and '{original.MODEL_TYPE}'"
        )
    with reading(directory):
        shapes = {name: tensor.shape for name, tensor in list_tensors(directory).items()}
        image_token_id = token_id(directory, original.IMAGE_TOKEN)
        return {**original.translate_config(config, shapes), "image_token_id": image_token_id}


def model_config_of(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the shape that a config in the keys of transformers describes.

    Args:
        config: Content of ``config.json``; of the sections, what is absent or null is default.
        where: What errors call it.

    Raises:
        CheckpointError: As `read_model_config`.
    """
    with reading(where):
        is_hybrid = config["model_type"] == "deepseek_vl_hybrid"
        model = ModelConfig(
            text=_llama_config(config.get("text_config") or {}, where),
            low_res=_siglip_config(config.get("vision_config") or {}, where),
            high_res=(
                _sam_config(config.get("high_res_vision_config") or {}, where)
                if is_hybrid
                else None
            ),
            image_token_id=get(config, "image_token_id", 100015),
        )
        _require_sizes(model, where)
    return model


def _require_sizes(model: ModelConfig, where: str) -> None:
    """Refuse what no size can be; texts and lists are checked where they are read."""
    sections = [asdict(one) for one in (model.text, model.low_res, model.high_res) if one]
    for name, value in [item for section in sections for item in section.items()]:
        kind = float if name in ("rms_norm_eps", "layer_norm_eps", "rope_theta") else int
        if name not in ("activation", "global_layers") and (type(value) is not kind or value <= 0):
            raise CheckpointError(
                f"{where} gives {value!r} for what is called {name} here; it must be a "
                f"{'number' if kind is float else 'whole number'} above 0"
            )
    if type(model.image_token_id) is not int or model.image_token_id < 0:
        raise CheckpointError(f"{where} has image_token_id={model.image_token_id!r}; it is no id")
    _require_divisor("num_key_value_heads", model.text.num_kv_heads, model.text.num_heads, where)
    for tower in (model.low_res, model.high_res):
        if tower is not None:
            _require_divisor("num_attention_heads", tower.num_heads, tower.hidden_size, where)


def _require_divisor(name: str, divisor: int, number: int, where: str) -> None:
    if number % divisor:
        raise CheckpointError(f"{where} has {name}={divisor}, which does not divide {number}")


def _llama_config(config: Mapping[str, Any], where: str) -> LlamaConfig:
    where = f"{where}: the language model's config"
    require(config, "attention_bias", False, where)
    require(config, "mlp_bias", False, where)
    # rope_scaling is the older name; where a file has both it replaces the other, as upstream
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type != "default":
        raise CheckpointError(
            f"{where} has the rope type {rope_type!r}; only 'default' (plain rope_theta), which "
            f"the released checkpoints use, can be run"
        )
    require(rope, "partial_rotary_factor", 1.0, where)
    hidden_size = get(config, "hidden_size", 4096)
    num_heads = get(config, "num_attention_heads", 32)
    return LlamaConfig(
        vocab_size=get(config, "vocab_size", 32000),
        hidden_size=hidden_size,
        intermediate_size=get(config, "intermediate_size", 11008),
        num_layers=get(config, "num_hidden_layers", 32),
        num_heads=num_heads,
        num_kv_heads=get(config, "num_key_value_heads", num_heads),
        head_dim=get(config, "head_dim", hidden_size // num_heads),
        rms_norm_eps=float(get(config, "rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta") or get(config, "rope_theta", 10000.0)),
        max_positions=get(config, "max_position_embeddings", 2048),
        activation=_activation(config, "silu", _ACTIVATIONS, where),
    )


_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def _activation(
    config: Mapping[str, Any], default: str, known: Mapping[str, _Name], where: str
) -> _Name:
    """Return our name of an activation."""
    found = get(config, "hidden_act", default)
    if found not in known:
        raise CheckpointError(
            f"{where} has hidden_act={found!r}; it must be one of {', '.join(known)}"
        )
    return known[found]


def _siglip_config(config: Mapping[str, Any], where: str) -> SiglipConfig:
    where = f"{where}: the low-resolution tower's config"
    require(config, "num_channels", 3, where)
    known: dict[str, Literal["gelu", "gelu_tanh"]]
    known = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
    return SiglipConfig(
        image_size_px=side(config.get("image_size"), 224, where),
        patch_size_px=side(config.get("patch_size"), 16, where),
        hidden_size=get(config, "hidden_size", 768),
        intermediate_size=get(config, "intermediate_size", 3072),
        num_layers=get(config, "num_hidden_layers", 12),
        num_heads=get(config, "num_attention_heads", 12),
        layer_norm_eps=float(get(config, "layer_norm_eps", 1e-6)),
        activation=_activation(config, "gelu_pytorch_tanh", known, where),
    )


def _sam_config(config: Mapping[str, Any], where: str) -> SamConfig:
    where = f"{where}: the high-resolution tower's config"
    require(config, "num_channels", 3, where)
    require(config, "hidden_act", "gelu", where)
    for flag in ("qkv_bias", "use_abs_pos", "use_rel_pos"):
        require(config, flag, True, where)
    hidden_size = get(config, "hidden_size", 768)
    return SamConfig(
        image_size_px=side(config.get("image_size"), 1024, where),
        patch_size_px=side(config.get("patch_size"), 16, where),
        hidden_size=hidden_size,
        # not intermediate_size, which transformers stores but does not read
        intermediate_size=get(config, "mlp_dim", int(hidden_size * get(config, "mlp_ratio", 4.0))),
        num_layers=get(config, "num_hidden_layers", 12),
        num_heads=get(config, "num_attention_heads", 12),
        layer_norm_eps=float(get(config, "layer_norm_eps", 1e-6)),
        window_size=get(config, "window_size", 14),
        global_layers=tuple(int(i) for i in get(config, "global_attn_indexes", (2, 5, 8, 11))),
        output_channels=get(config, "output_channels", 256),
    )
