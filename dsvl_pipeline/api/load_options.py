"""What ``from_pretrained`` of the public models takes beside a name and a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from dsvl_pipeline.api.initialising import Config
from dsvl_pipeline.api.locating import Name
from dsvl_pipeline.model.tensors import list_tensors

# One for the whole, or by section.
Attention = str | dict[str, str | None]
_ATTENTIONS = (
    *("eager", "sdpa", "flex_attention"),
    *("flash_attention_2", "flash_attention_3", "flash_attention_4"),
)
# What cannot be done, and what to do instead.
_REFUSED = {
    "quantization_config": "quantised weights cannot be trained or saved here; in a job, use "
    "engine.quantization",
    "load_in_8bit": "in a job, use engine.quantization: fp8",
    "load_in_4bit": "in a job, use engine.quantization: fp8",
    "gguf_file": "only safetensors can be read; convert the file",
    "tp_plan": "a model lies on one device; run one per GPU",
    "device_mesh": "a model lies on one device; run one per GPU",
    "distributed_config": "a model lies on one device; run one per GPU",
    "adapter_kwargs": "load the adapter with peft",
    "variant": "files of a variant are not looked for; rename them",
}
# What changes nothing here.
_IGNORED = {
    *("low_cpu_mem_usage", "trust_remote_code", "weights_only", "proxies", "max_memory"),
    *("offload_folder", "offload_buffers", "offload_state_dict", "disable_mmap", "fusion_config"),
    *("_from_auto", "_from_pipeline", "_commit_hash", "_fast_init", "adapter_name", "tp_size"),
    *("use_kernels", "allow_all_kernels", "kernel_config", "tqdm_class"),
}


class Where(TypedDict, total=False):
    """Where a checkpoint lies; see `locate`."""

    revision: str | None
    subfolder: str
    cache_dir: Name | None
    token: str | bool | None
    local_files_only: bool
    force_download: bool


@dataclass(slots=True, kw_only=True, eq=False)
class LoadOptions:
    """How a checkpoint is loaded.

    Attributes:
        dtype: Of all weights; by default, and for ``auto``, what config.json says, else that of the
            first weight.
        torch_dtype: Older name of ``dtype``.
        device_map: A device; ``auto`` is the first GPU, or the CPU without one, as is None.
        attn_implementation: Kept in the config and without effect: the kernels follow the device.
        use_safetensors: False is refused: pickles can run code.
        state_dict: Weights instead of a checkpoint's.
        ignore_mismatched_sizes: Whether weights of another shape are left out and random.
        output_loading_info: Whether to return a report as well.
        key_mapping: Regular expressions of the stored names, and what replaces them.
        generation_config: Instead of the checkpoint's own.
        chosen_dtype: What came of ``dtype``.
    """

    dtype: torch.dtype | str | None = None
    torch_dtype: torch.dtype | str | None = None
    device_map: torch.device | str | int | Mapping[str, Any] | None = None
    attn_implementation: Attention | None = None
    use_safetensors: bool | None = None
    state_dict: Mapping[str, Tensor] | None = None
    ignore_mismatched_sizes: bool = False
    output_loading_info: bool = False
    key_mapping: Mapping[str, str] | None = None
    generation_config: Any = None
    chosen_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.use_safetensors is False:
            raise ValueError("use_safetensors=False: only safetensors are read, no pickles")
        if self.attn_implementation is not None:
            require_attention(self.attn_implementation)

    def device(self) -> torch.device:
        """Return where the weights go."""
        wanted = self.device_map
        if isinstance(wanted, Mapping):
            places = {str(place) for place in wanted.values()}
            if len(places) > 1:
                raise ValueError(
                    f"device_map names {', '.join(sorted(places))}; a model lies on one device"
                )
            wanted = next(iter(wanted.values()), None)
        if wanted in ("auto", "balanced", "balanced_low_0", "sequential"):
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.get_default_device() if wanted is None else torch.device(wanted)

    def dtype_of(self, config: Config, directory: Path | None) -> torch.dtype:
        """Return what the weights become."""
        wanted = self.dtype if self.dtype is not None else self.torch_dtype
        if wanted in (None, "auto"):
            wanted = config.dtype or config.text_config.dtype
        if wanted is None:
            wanted = "float32" if directory is None else _dtype_of_weights(directory)
        dtype = getattr(torch, str(wanted).removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype is {wanted!r}; it must be a torch dtype such as 'bfloat16'")
        return dtype


def split_options(
    class_name: str, options: Mapping[str, Any]
) -> tuple[Where, LoadOptions, dict[str, Any]]:
    """Tell apart where a checkpoint lies, how it is loaded, and values of its config.

    Raises:
        ValueError: One asks for what cannot be done.
    """
    for name, instead in _REFUSED.items():
        if options.get(name) is not None:
            raise ValueError(f"{class_name}.from_pretrained cannot take {name}: {instead}")
    rest = {k: v for k, v in options.items() if k not in _IGNORED | _REFUSED.keys()}
    where = Where(**{k: rest.pop(k) for k in Where.__annotations__ & rest.keys()})  # type: ignore[typeddict-item]
    known = {field.name for field in fields(LoadOptions)} - {"chosen_dtype"}
    return where, LoadOptions(**{k: rest.pop(k) for k in known & rest.keys()}), rest


def _dtype_of_weights(directory: Path) -> str:
    """What the reference takes where config.json says nothing: the first weight's."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    found = (names.get(tensor.dtype) for tensor in list_tensors(directory).values())
    return next(filter(None, found), "float32")


def require_attention(chosen: Attention) -> Attention:
    """Return the name of an attention, or names by section, if they are known.

    Raises:
        ValueError: One is not.
    """
    for name in chosen.values() if isinstance(chosen, dict) else [chosen]:
        # with a slash it is a kernel of the hub
        if name is not None and name not in _ATTENTIONS and "/" not in name:
            raise ValueError(
                f"attn_implementation is {name!r}; it must be one of {', '.join(_ATTENTIONS)} "
                "(which change nothing: the kernels follow the device)"
            )
    return chosen
