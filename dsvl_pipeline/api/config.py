"""The shapes of checkpoints, and which class takes which."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from dsvl_pipeline import hub
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.config import (
    LlamaConfig,
    ModelConfig,
    SamConfig,
    SiglipConfig,
    read_model_config,
)


class DeepseekVLConfig:
    """The shape of a checkpoint's model, as frozen dataclasses."""

    is_hybrid: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Read a directory's or hub id's config."""
        directory = hub.resolve(str(name), revision)
        return cls(read_config(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__))

    @property
    def text_config(self) -> LlamaConfig:
        return self._config.text

    @property
    def vision_config(self) -> SiglipConfig:
        return self._config.low_res

    @property
    def high_res_vision_config(self) -> SamConfig | None:
        return self._config.high_res

    @property
    def image_token_id(self) -> int:
        return self._config.image_token_id


class DeepseekVLHybridConfig(DeepseekVLConfig):
    """The shape of a checkpoint with two towers."""

    is_hybrid = True


def read_config(directory: Path, *, is_hybrid: bool, class_name: str) -> ModelConfig:
    """Read a checkpoint's config for one of the public classes.

    Raises:
        CheckpointError: The checkpoint is of the other architecture, or broken.
    """
    config = read_model_config(directory)
    if config.is_hybrid and not is_hybrid:
        raise CheckpointError(
            f"{directory} has two towers, which {class_name} does not run; use "
            f"{class_name.replace('DeepseekVL', 'DeepseekVLHybrid')}"
        )
    if is_hybrid and not config.is_hybrid:
        raise CheckpointError(
            f"{directory} has one tower, which {class_name} does not run; use "
            f"{class_name.replace('Hybrid', '')}"
        )
    return config
