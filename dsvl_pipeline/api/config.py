"""The configs of the reference documentation, with its names and defaults.

They are what scripts read, change and save. A model is built from the frozen `ModelConfig`, which
`model_config` makes of them, and which refuses what cannot be run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from dsvl_pipeline.api.config_values import ConfigValues
from dsvl_pipeline.api.pretrained_config import PretrainedConfig
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.config import MODEL_TYPES, ModelConfig, model_config_of


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class TextConfig(PretrainedConfig):
    """The language model's section; the names are LLaMA's.

    Attributes:
        num_key_value_heads: By default as many as heads.
        head_dim: By default what the heads share of the width.
        rope_parameters: ``rope_type`` and ``rope_theta`` at least; the older ``rope_theta`` and
            ``rope_scaling`` are taken as well.
    """

    model_type: ClassVar[str] = "llama"
    base_config_key: ClassVar[str] = "text_config"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pretraining_tp: int | None = 1
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float | None = 0.0
    mlp_bias: bool = False
    head_dim: int | None = None

    def _complete(self, values: dict[str, Any]) -> None:
        sizes = (self.hidden_size, self.num_attention_heads)
        if not all(isinstance(size, int) for size in sizes) or sizes[0] % sizes[1]:
            raise ValueError(
                f"hidden_size is {sizes[0]!r} and num_attention_heads {sizes[1]!r}; they must be "
                "whole numbers, the first a multiple of the second"
            )
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        # as upstream, the older name wins where both are there
        rope = {**(values.pop("rope_scaling", None) or self.rope_parameters or {})}
        rope.setdefault("rope_theta", values.pop("rope_theta", 10000.0))
        rope.setdefault("rope_type", rope.get("type", "default"))
        if "partial_rotary_factor" in values:
            rope.setdefault("partial_rotary_factor", values.pop("partial_rotary_factor"))
        if rope["rope_type"] in ("llama3", "yarn", "longrope"):
            rope.setdefault("original_max_position_embeddings", self.max_position_embeddings)
        self.rope_parameters = rope

    @property
    def per_layer_config(self) -> list[Self]:
        """One config for each layer, which the caches of transformers ask for."""
        return [self] * self.num_hidden_layers

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """The older name of ``rope_parameters``."""
        return self.rope_parameters

    @rope_scaling.setter
    def rope_scaling(self, parameters: dict[str, Any] | None) -> None:
        before = self.rope_parameters or {}
        kept = {"rope_theta": before.get("rope_theta", 10000.0)}
        self.rope_parameters = None if parameters is None else kept | parameters


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class VisionConfig(PretrainedConfig):
    """The low-resolution tower's section; the names are SigLIP's."""

    model_type: ClassVar[str] = "siglip_vision_model"
    base_config_key: ClassVar[str] = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    vision_use_head: bool = True


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class HighResVisionConfig(PretrainedConfig):
    """The high-resolution tower's section; the names are SAM's.

    Attributes:
        mlp_dim: By default ``mlp_ratio`` times the width.
    """

    model_type: ClassVar[str] = "sam_vision_model"
    base_config_key: ClassVar[str] = "high_res_vision_config"

    hidden_size: int = 768
    output_channels: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 1024
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 1e-10
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    use_abs_pos: bool = True
    use_rel_pos: bool = True
    window_size: int = 14
    global_attn_indexes: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    num_pos_feats: int = 128
    mlp_dim: int | None = None

    def _complete(self, values: dict[str, Any]) -> None:
        if self.mlp_dim is None:
            self.mlp_dim = int(self.hidden_size * self.mlp_ratio)
        self.scale = self.hidden_size // 2


class _WholeConfig(PretrainedConfig):
    """What both architectures share."""

    def model_config(self) -> ModelConfig:
        """Return the frozen shape that a model is built from.

        Raises:
            CheckpointError: A value asks for what cannot be run. It is a ValueError as well.
        """
        return model_config_of(self.to_dict(), type(self).__name__)

    @classmethod
    def _own_part(cls, found: dict[str, Any], where: str) -> dict[str, Any]:
        require_model_type(found.get("model_type"), cls.model_type, where, cls.__name__)
        return found


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class DeepseekVLConfig(_WholeConfig):
    """The config of a model with one tower. Sections may be dicts, configs or None (defaults)."""

    model_type: ClassVar[str] = "deepseek_vl"
    sub_configs: ClassVar[dict[str, type[ConfigValues]]] = {
        "vision_config": VisionConfig,
        "text_config": TextConfig,
    }

    text_config: TextConfig = None  # type: ignore[assignment]  # _make_sections
    vision_config: VisionConfig = None  # type: ignore[assignment]
    image_token_id: int = 100015
    tie_word_embeddings: bool = True


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class DeepseekVLHybridConfig(_WholeConfig):
    """The config of a model with two towers. Sections may be dicts, configs or None (defaults)."""

    model_type: ClassVar[str] = "deepseek_vl_hybrid"
    sub_configs: ClassVar[dict[str, type[ConfigValues]]] = {
        "vision_config": VisionConfig,
        "high_res_vision_config": HighResVisionConfig,
        "text_config": TextConfig,
    }

    text_config: TextConfig = None  # type: ignore[assignment]
    vision_config: VisionConfig = None  # type: ignore[assignment]
    high_res_vision_config: HighResVisionConfig = None  # type: ignore[assignment]
    image_token_id: int = 100015
    tie_word_embeddings: bool = True


def require_model_type(found: str | None, wanted: str, where: Path | str, class_name: str) -> None:
    """Refuse a checkpoint of the other architecture.

    Raises:
        CheckpointError: With the name of the class that takes it, if there is one.
    """
    if found == wanted:
        return
    if found not in MODEL_TYPES:
        raise CheckpointError(
            f"{where} has model_type={found!r}, which {class_name} does not run; it takes "
            f"{wanted!r}"
        )
    single = class_name.replace("Hybrid", "")
    towers, other = ("one tower", single)
    if found == "deepseek_vl_hybrid":
        towers, other = "two towers", single.replace("DeepseekVL", "DeepseekVLHybrid")
    raise CheckpointError(f"{where} has {towers}, which {class_name} does not run; use {other}")
