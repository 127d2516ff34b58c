"""How many KV pages an engine may have."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.values import KVPages
from dsvl_pipeline.records import EngineConfig

_GIB = 1 << 30
# For activations of the largest steps, image features and what the allocator cannot reuse; of a
# small GPU, or one that others use as well, a share.
_GPU_RESERVE_GIB = 6.0
_GPU_RESERVE_SHARE = 0.25
_CPU_GIB = 1.0


def allocate_pages(config: EngineConfig, model: DeepseekVL, *, num_sequences: int) -> KVPages:
    """Take memory for KV pages: what the engine may use, and one page for padding.

    Raises:
        ConfigError: Not even one page fits.
    """
    parameter = next(model.parameters())
    dtype = torch.float8_e4m3fn if config.quantization == "fp8" else parameter.dtype
    num_pages = resolve_num_pages(
        config, model.config, num_sequences=num_sequences, dtype=dtype, device=parameter.device
    )
    text = model.config.text
    return KVPages.allocate(
        text.num_layers,
        text.num_kv_heads,
        text.head_dim,
        num_pages + 1,
        config.page_size_tokens,
        dtype,
        parameter.device,
    )


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
    page_bytes = _page_bytes(model, config.page_size_tokens, dtype)
    usable_bytes = _usable_gib(config, device) * _GIB
    if usable_bytes < page_bytes:
        raise ConfigError(
            f"the engine has {usable_bytes / _GIB:.3g} GiB for KV pages, but one page of "
            f"{config.page_size_tokens} tokens takes {page_bytes / _GIB:.3g} GiB; raise "
            "engine.kv_cache_gib, lower engine.page_size_tokens or use a larger device"
        )
    useful = num_sequences * -(-model.text.max_positions // config.page_size_tokens)
    return min(int(usable_bytes // page_bytes), useful)


def kv_gib_for(
    lengths: Iterable[int],
    model: ModelConfig,
    *,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Return the memory for sequences that reach these lengths at once, or what a GPU has free.

    Args:
        lengths: In tokens, prompt and completion together.
        model: Tells how much a token takes.
        page_size: Tokens in one KV page.
        dtype: Of keys and values.
        device: Where they will lie.
    """
    num_pages = sum(-(-length // page_size) for length in lengths)
    # Half a page more, or rounding might cost a whole one.
    gib = (num_pages + 0.5) * _page_bytes(model, page_size, dtype) / _GIB
    return min(gib, _free_gib(device)) if device.type == "cuda" else gib


def _page_bytes(model: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    text = model.text
    token_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * dtype.itemsize
    return token_bytes * page_size


def _usable_gib(config: EngineConfig, device: torch.device) -> float:
    if config.kv_cache_gib != "auto":
        return config.kv_cache_gib
    if device.type != "cuda":
        return _CPU_GIB
    return _free_gib(device)


def _free_gib(device: torch.device) -> float:
    """Return what a GPU has free, less the reserve."""
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    free_gib = free_bytes / _GIB
    return free_gib - min(_GPU_RESERVE_GIB, _GPU_RESERVE_SHARE * free_gib)
