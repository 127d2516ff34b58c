"""config.json and safetensors of all three dialects to a model on its device."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.config import MODEL_TYPES, ModelConfig, read_model_config
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.json_files import read_json
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.model.names import (
    Names,
    dialect_names,
    is_high_res,
    is_ignored,
    stored_names,
)
from dsvl_pipeline.model.reading import for_each, open_files
from dsvl_pipeline.model.tensors import StoredTensor, list_tensors
from dsvl_pipeline.ops.linear import require_fp8

Quantization = Literal["none", "fp8"]

# As safetensors names them. Of anything else the numbers mean nothing without scales.
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one stored tensor goes: into all of a parameter, or into some of its rows."""

    parameter: str
    rows: slice
    shape: tuple[int, ...]


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: Quantization = "none",
    config: ModelConfig | None = None,
) -> DeepseekVL:
    """Load a checkpoint of any dialect, in eval mode and without gradients.

    Every tensor is read once and written to its final place, in its final dtype; beside the model,
    host memory holds no more than the files' cache and, on the way to a GPU, a few buffers.

    Args:
        directory: With ``config.json`` and safetensors.
        dtype: Of all weights.
        device: Of all weights.
        quantization: ``fp8`` rounds the projections inside the language model's layers to e4m3.
        config: The shape; by default what ``config.json`` says.

    Raises:
        ConfigError: The device cannot multiply quantised matrices.
        CheckpointError: Files are missing or broken, or tensors are missing, unknown, quantised or
            of another shape than the config says.
    """
    if quantization == "fp8":
        require_fp8(torch.device(device))
    device = torch.empty(0, device=device).device  # numbered: threads take "cuda" for the first
    config = config or read_model_config(directory)
    stored = list_tensors(directory)
    names = dialect_names(stored, is_hybrid=config.is_hybrid)
    model = build_empty(config)
    # The file decides, not tie_word_embeddings: its default contradicts the real 7B. Tied first,
    # for then the head is no parameter of its own that the file would have to hold.
    is_tied = f"{names['lm_head']}.weight" not in stored
    if is_tied:
        model.lm_head.weight = model.text.embedding.weight
    targets = dict(list_targets(model, names))
    _check(directory, config, targets, stored)
    late = model.quantizable() if quantization == "fp8" else {}
    materialise(model, dtype, device, late)
    if is_tied:
        model.lm_head.weight = model.text.embedding.weight
    _fill(model, targets, stored, dtype, device, late)
    return model


def is_exact(directory: Path, config: ModelConfig) -> bool:
    """Return whether a checkpoint's tensors are those of a shape, so that `load_model` takes them.

    One of the original dialect always counts: its names are like no others.
    """
    if read_json(directory / "config.json").get("model_type") not in MODEL_TYPES:
        return True
    stored = list_tensors(directory)
    names = dialect_names(stored, is_hybrid=config.is_hybrid)
    shapes = {name: target.shape for name, target in list_targets(build_empty(config), names)}
    if (head := f"{names['lm_head']}.weight") not in stored:
        shapes.pop(head)
    unknown = [name for name in stored if name not in shapes and not is_ignored(name)]
    return not unknown and all(
        name in stored and stored[name].shape == shape and stored[name].dtype in _FLOATS
        for name, shape in shapes.items()
    )


def build_empty(config: ModelConfig) -> DeepseekVL:
    """Build a model without memory for its weights (on the meta device)."""
    with torch.device("meta"):
        return DeepseekVL(config).eval().requires_grad_(False)


def list_targets(model: DeepseekVL, names: Names) -> Iterator[tuple[str, Target]]:
    """Pair every name that the files must hold with its place in the model."""
    for name, parameter in model.named_parameters():
        module_name = name.rpartition(".")[0]
        parts = stored_names(name, names)
        module = model.get_submodule(module_name)
        sizes: tuple[int, ...] = (parameter.shape[0],)
        if isinstance(module, Linear) and len(parts) > 1:
            sizes = module.part_sizes
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            shape = (size, *parameter.shape[1:])
            yield part, Target(parameter=name, rows=slice(start, start + size), shape=shape)
            start += size


def materialise(
    model: nn.Module, dtype: torch.dtype, device: torch.device, late: Container[str] = ()
) -> None:
    """Replace the meta tensors by memory on the device; buffers are real already and move.

    Args:
        model: Changed in place.
        dtype: Of the weights.
        device: Of the weights.
        late: Names of weights that get their memory when they are read.
    """
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if f"{module_name}.{name}" not in late:
                empty = torch.empty(parameter.shape, dtype=dtype, device=device)
                setattr(module, name, nn.Parameter(empty, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _fill(
    model: nn.Module,
    targets: Mapping[str, Target],
    stored: Mapping[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
    late: Mapping[str, Linear],
) -> None:
    parameters = dict(model.named_parameters())
    names_by_parameter: dict[str, list[str]] = defaultdict(list)
    for name, target in targets.items():
        names_by_parameter[target.parameter].append(name)
    one_at_a_time = threading.Lock()  # Triton's launchers are not made for several threads

    with open_files({stored[name].file for name in targets}, device) as read:

        def fill(parameter_name: str) -> None:
            parameter = parameters[parameter_name]
            if parameter_name in late:
                empty = torch.empty(parameter.shape, dtype=dtype, device=device)
                parameter = late[parameter_name].weight = nn.Parameter(empty, requires_grad=False)
            for name in names_by_parameter[parameter_name]:
                target = targets[name]
                read(name, stored[name], parameter[target.rows].view(target.shape))
            if parameter_name in late:
                with one_at_a_time:
                    late[parameter_name].quantize_()

        for_each(fill, names_by_parameter, device)


def _check(
    directory: Path,
    config: ModelConfig,
    targets: Mapping[str, Target],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Compare what the model needs with what the files hold."""
    missing = [name for name in targets if name not in stored]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(targets)} tensors are missing, first "
            f"'{missing[0]}'; {_likely_cause(config, stored)}"
        )
    unknown = [name for name in stored if name not in targets and not is_ignored(name)]
    if unknown:
        raise CheckpointError(
            f"{directory}: {len(unknown)} of {len(stored)} tensors are unknown, first "
            f"'{unknown[0]}'; {_likely_cause(config, stored)}"
        )
    quantised = [name for name in targets if stored[name].dtype not in _FLOATS]
    if quantised:
        raise CheckpointError(
            f"{directory}: {len(quantised)} of {len(targets)} tensors are no floats of 16 bits or "
            f"more, first '{quantised[0]}' with {stored[quantised[0]].dtype}; quantised weights "
            f"cannot be run, use the checkpoint that they were made from"
        )
    misshaped = [
        name
        for name, target in targets.items()
        # the original's position embedding has a batch dimension besides
        if stored[name].shape not in (target.shape, (1, *target.shape))
    ]
    if misshaped:
        name = misshaped[0]
        raise CheckpointError(
            f"{directory}: {len(misshaped)} of {len(targets)} tensors do not have the shape that "
            f"config.json asks for, first '{name}' with {list(stored[name].shape)} instead of "
            f"{list(targets[name].shape)}; {_likely_cause(config, stored)}"
        )


def _likely_cause(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> str:
    has_high_res = any(map(is_high_res, stored))
    if config.is_hybrid and not has_high_res:
        return "is this the 1.3B checkpoint? (its config.json says deepseek_vl_hybrid)"
    if has_high_res and not config.is_hybrid:
        return "is this the 7B checkpoint? (its config.json says deepseek_vl)"
    return (
        f"config.json says {config.text.num_layers} layers of width {config.text.hidden_size}; "
        f"is it of the same checkpoint as the weights?"
    )
