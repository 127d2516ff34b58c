"""What a card can do at most, and the least time that a request's work takes on it.

The time is the sum of vision, prefill, reading KV and the decode steps' projections, each at the
ceiling that bounds it: nothing overlaps, and no prompt token is left out but those that several
prompts on one image share.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from dsvl_pipeline.model.config import LlamaConfig, ModelConfig, SamConfig, SiglipConfig

DECODE_BATCH = 256  # sequences that share one reading of the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Measured on the card.

    Attributes:
        bf16_flops: Of a square product, per second.
        fp8_flops: The same with e4m3 operands and scales per row; twice the former where the card
            has no such product.
        copy_bytes: Read plus written, per second.
    """

    bf16_flops: float
    fp8_flops: float
    copy_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Least seconds per request, by part."""

    vision_s: float
    prefill_s: float
    kv_s: float
    linears_s: float

    @property
    def seconds(self) -> float:
        return self.vision_s + self.prefill_s + self.kv_s + self.linears_s


def measure_ceilings(device: str) -> Ceilings:
    """Time two matrix products and a copy; on a CPU tiny ones, to try the script out."""
    bf16_flops, copy_bytes = _product_flops(device), _copy_bytes(device)
    fp8_flops = 2 * bf16_flops
    if device.startswith("cuda"):
        with suppress(RuntimeError):
            fp8_flops = _fp8_product_flops(device)
        torch.cuda.empty_cache()
    return Ceilings(bf16_flops=bf16_flops, fp8_flops=fp8_flops, copy_bytes=copy_bytes)


def request_floor(
    config: ModelConfig,
    ceilings: Ceilings,
    *,
    num_prompt_tokens: int,
    num_new_tokens: float,
    precision: str,
    num_prompts: int = 1,
    num_own_tokens: int = 0,
) -> Floor:
    """Give the least time of one request.

    Args:
        config: The model's shape.
        ceilings: Of the card.
        num_prompt_tokens: Image tokens included.
        num_new_tokens: Or their mean.
        precision: ``bf16`` or ``fp8`` (the language model's layers and KV; not vision and head).
        num_prompts: Requests that share one image and what stands before it.
        num_own_tokens: Prompt tokens of each that are not shared, where there are several.
    """
    text = config.text
    is_fp8 = precision == "fp8"
    flops = ceilings.fp8_flops if is_fp8 else ceilings.bf16_flops
    kv_bytes = 2 * text.num_layers * text.num_kv_heads * text.head_dim * (1 if is_fp8 else 2)
    shared = num_prompt_tokens - num_own_tokens if num_prompts > 1 else 0
    own = num_prompt_tokens - shared
    prefilled = own + shared / num_prompts
    # pages that several sequences share are read once for all of them
    read_tokens = num_new_tokens * (prefilled + num_new_tokens / 2)
    layers, head = _layer_weights(text), text.vocab_size * text.hidden_size
    computed_s = 2 * layers / flops + 2 * head / ceilings.bf16_flops
    fetched_s = (layers * (1 if is_fp8 else 2) + 2 * head) / ceilings.copy_bytes / DECODE_BATCH
    return Floor(
        vision_s=vision_flops(config) / ceilings.bf16_flops / num_prompts,
        prefill_s=prefilled * 2 * layers / flops
        + _causal_flops(text, num_prompt_tokens)
        * prefilled
        / num_prompt_tokens
        / ceilings.bf16_flops,
        kv_s=read_tokens * kv_bytes / ceilings.copy_bytes,
        linears_s=num_new_tokens * max(computed_s, fetched_s),
    )


def vision_flops(config: ModelConfig) -> float:
    """Operations of one picture through both towers and the aligner."""
    low, high, width = config.low_res, config.high_res, config.text.hidden_size
    tokens = config.num_image_tokens
    if high is None:
        aligner = low.hidden_size * width + width**2
        return _siglip_flops(low) + 2 * tokens * aligner
    aligner = (low.hidden_size + 4 * high.output_channels) * width // 2 + width**2
    return _siglip_flops(low) + _sam_flops(high, low.grid_size) + 2 * tokens * aligner


def _layer_weights(text: LlamaConfig) -> int:
    D, heads, kv_heads = text.hidden_size, text.num_heads, text.num_kv_heads
    attention = D * text.head_dim * (2 * heads + 2 * kv_heads)
    return text.num_layers * (attention + 3 * D * text.intermediate_size)


def _causal_flops(text: LlamaConfig, num_tokens: int) -> float:
    return 2.0 * num_tokens**2 * text.num_heads * text.head_dim * text.num_layers


def _siglip_flops(config: SiglipConfig) -> float:
    D, tokens = config.hidden_size, config.grid_size**2
    weights = 4 * D**2 + 2 * D * config.intermediate_size
    layer = 2 * tokens * weights + 4 * tokens**2 * D
    return config.num_layers * layer + 2 * tokens * 3 * config.patch_size_px**2 * D


def _sam_flops(config: SamConfig, output_grid_size: int) -> float:
    D, C, G, W = config.hidden_size, config.output_channels, config.grid_size, config.window_size
    tokens = G**2
    padded = (-(-G // W) * W) ** 2
    num_global = len(config.global_layers)
    num_windowed = config.num_layers - num_global
    mlp = 2 * tokens * 2 * D * config.intermediate_size
    global_layer = mlp + 2 * tokens * 4 * D**2 + 4 * tokens**2 * D
    windowed_layer = mlp + 2 * padded * 4 * D**2 + 4 * padded * W**2 * D
    neck = 2 * tokens * (D * C + 9 * C**2)
    g = output_grid_size
    projection = 2 * 9 * ((2 * g) ** 2 * C * 2 * C + g**2 * 2 * C * 4 * C)
    patches = 2 * tokens * 3 * config.patch_size_px**2 * D
    return (
        patches
        + num_global * global_layer
        + num_windowed * windowed_layer
        + 2 * (neck + projection)
    )


def _product_flops(device: str) -> float:
    is_cuda = device.startswith("cuda")
    size, dtype = (8192, torch.bfloat16) if is_cuda else (256, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    return 2 * size**3 / _median_s(lambda: a @ b, device)


def _fp8_product_flops(device: str) -> float:
    size, dtype = 8192, torch.float8_e4m3fn
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    scales = torch.ones(size, 1, device=device), torch.ones(1, size, device=device)

    def multiply() -> object:
        return torch._scaled_mm(a, b.t(), *scales, out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * size**3 / _median_s(multiply, device)


def _copy_bytes(device: str) -> float:
    num_bytes = 4 << 30 if device.startswith("cuda") else 1 << 20
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _median_s(lambda: target.copy_(source), device)


def _median_s(run: Callable[[], object], device: str) -> float:
    """Time ten calls after three that warm up."""
    seconds = []
    for _ in range(13):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])
