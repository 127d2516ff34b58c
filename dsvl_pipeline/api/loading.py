"""How the public models are loaded, with the reference's arguments."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from dsvl_pipeline.api.config import read_config
from dsvl_pipeline.api.locating import Name, locate
from dsvl_pipeline.api.pretrained_model import PretrainedModel
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.generation_defaults import read_generation_config
from dsvl_pipeline.model.tensors import list_tensors

_logger = logging.getLogger(__name__)

DeviceMap = torch.device | str | int | Mapping[str, Any] | None


class LoadedModel(PretrainedModel):
    """A public model that is loaded from a checkpoint and saved as one."""

    is_hybrid: ClassVar[bool] = False

    @classmethod
    def from_pretrained(
        cls,
        name: Name,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: DeviceMap = None,
        attn_implementation: str | None = None,
    ) -> Self:
        """Load a checkpoint, in eval mode.

        Args:
            name: A directory, a hub id, or ``demo``.
            revision: Commit, tag or branch of a hub id.
            dtype: Of all weights; by default, and for ``auto``, what config.json says, else that
                of the first weight.
            torch_dtype: Older name of ``dtype``.
            device_map: A device; ``auto`` is the first GPU, or the CPU without one, as is None.
            attn_implementation: Accepted and without effect: the kernels follow the device.

        Raises:
            CheckpointError: Files are missing or broken, or it is of the other architecture.
        """
        directory = locate(name, needs="weights", revision=revision)
        is_hybrid = cls.config_class.model_type == "deepseek_vl_hybrid"
        read_config(directory, is_hybrid=is_hybrid, class_name=cls.__name__)
        config = cls.config_class.from_pretrained(directory)
        chosen = _dtype(dtype if dtype is not None else torch_dtype, directory)
        network = load_model(directory, dtype=chosen, device=_device(device_map))
        model = cls(config, network=network.requires_grad_(True))
        model.generation_config = read_generation_config(directory)
        if model.generation_config.warning is not None:
            _logger.warning("%s: %s", directory, model.generation_config.warning)
        return model.eval()


def _dtype(wanted: torch.dtype | str | None, directory: Path) -> torch.dtype:
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted in (None, "auto"):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        wanted = config.get("dtype") or config.get("torch_dtype") or _dtype_of_weights(directory)
    dtype = getattr(torch, str(wanted), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype is {wanted!r}; it must be a torch dtype such as 'bfloat16'")
    return dtype


def _dtype_of_weights(directory: Path) -> str:
    """What the reference takes where config.json says nothing: the first weight's."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    found = (names.get(tensor.dtype) for tensor in list_tensors(directory).values())
    return next(filter(None, found), "float32")


def _device(device_map: DeviceMap) -> torch.device:
    if isinstance(device_map, Mapping):
        device_map = device_map.get("")
    if device_map in (None, "auto"):
        is_gpu = device_map == "auto" and torch.cuda.is_available()
        return torch.device("cuda" if is_gpu else "cpu")
    return torch.device(device_map)
