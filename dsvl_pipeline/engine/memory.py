"""How many KV pages an engine may have."""

from __future__ import annotations

import torch

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.records import EngineConfig

_GIB = 1 << 30
# For activations of the largest steps, image features and what the allocator cannot reuse.
_GPU_RESERVE_GIB = 6.0
_CPU_GIB = 1.0


def resolve_num_sequences(config: EngineConfig, device: torch.device) -> int:
    """Return how many sequences run at once."""
    if config.max_num_sequences != "auto":
        return config.max_num_sequences
    return 16 if device.type == "cpu" else 256


def resolve_num_pages(
    config: EngineConfig,
    model: ModelConfig,
    *,
    num_sequences: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """Return the number of KV pages that fit into the memory the engine may use.

    Never more than all sequences could fill at the model's whole context.

    Raises:
        ConfigError: Not even one page fits.
    """
    text = model.text
    token_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * dtype.itemsize
    page_bytes = token_bytes * config.page_size_tokens
    usable_bytes = _usable_gib(config, device) * _GIB
    if usable_bytes < page_bytes:
        raise ConfigError(
            f"the engine has {usable_bytes / _GIB:.3g} GiB for KV pages, but one page of "
            f"{config.page_size_tokens} tokens takes {page_bytes / _GIB:.3g} GiB; raise "
            "engine.kv_cache_gib, lower engine.page_size_tokens or use a larger device"
        )
    useful = num_sequences * -(-text.max_positions // config.page_size_tokens)
    return min(int(usable_bytes // page_bytes), useful)


def _usable_gib(config: EngineConfig, device: torch.device) -> float:
    if config.kv_cache_gib != "auto":
        return config.kv_cache_gib
    if device.type != "cuda":
        return _CPU_GIB
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(free_bytes / _GIB - _GPU_RESERVE_GIB, 0.0)
