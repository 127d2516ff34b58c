"""Compile an engine's kernels before its weights are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.model.checkpoint import build_empty, materialise
from dsvl_pipeline.model.config import ModelConfig, read_model_config
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.records import EngineConfig, ImageInput, Request, SamplingParams

_KV_CACHE_GIB = 0.25
_MAX_NUM_SEQUENCES = 16


def warm_up(
    directory: Path, config: EngineConfig, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Answer a few requests with a model as wide as the checkpoint's, but of few layers.

    What Triton compiles depends on widths and dtypes and not on the weights, so this may run in a
    thread of its own while they load. It captures no CUDA graph: one thread's capture would forbid
    the other to take memory. Its own memory, about 3 GB for the 7B, is free again afterwards.

    Args:
        directory: Of the checkpoint; its weights are not read.
        config: Of the engine to come.
        dtype: Of its weights.
        device: Of its weights.

    Raises:
        RuntimeError: An answer failed; so will those of the real engine.
    """
    if device.index is not None:
        torch.cuda.set_device(device)  # each thread has a current device of its own
    model_config = _thin(read_model_config(directory))
    with torch.inference_mode():
        core = EngineCore(
            _random_model(model_config, config, dtype, device),
            replace(
                config,
                kv_cache_gib=_KV_CACHE_GIB,
                max_num_sequences=_MAX_NUM_SEQUENCES,
                cuda_graphs=False,
            ),
            decode=lambda _: "",
            eos_token_ids=(),
            image_config=read_image_config(directory),
        )
        for request in _requests(model_config):
            core.add(request, submitted_s=time.monotonic())
            while core.has_work:
                core.step()
        for completion in core.take_completions():
            if completion.error is not None:
                raise RuntimeError(f"warming up failed: {completion.error}")
    del core
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _thin(config: ModelConfig) -> ModelConfig:
    """Keep one layer of each kind: inner and last, of windows and global."""
    high_res = config.high_res
    if high_res is not None:
        first = high_res.global_layers[0]
        high_res = replace(high_res, num_layers=first + 1, global_layers=(first,))
    return replace(
        config,
        text=replace(config.text, num_layers=2),
        low_res=replace(config.low_res, num_layers=1),
        high_res=high_res,
    )


def _random_model(
    model_config: ModelConfig, config: EngineConfig, dtype: torch.dtype, device: torch.device
) -> DeepseekVL:
    model = build_empty(model_config)
    materialise(model, dtype, device)
    for parameter in model.parameters():
        parameter.normal_(0, 0.02)
    if config.quantization == "fp8":
        for linear in model.quantizable().values():
            linear.quantize_()
    return model


def _requests(config: ModelConfig) -> Iterator[Request]:
    """Prompts of several lengths, with and without a picture, in every way of choosing tokens."""
    token_id, other_id = [n for n in range(3) if n != config.image_token_id][:2]
    greedy = SamplingParams(max_new_tokens=4, ignore_eos=True)
    text = np.full(50, token_id, dtype=np.int32)
    picture = ImageInput(
        digest=bytes(16),
        high_res=None if config.high_res is None else _black(config.high_res.image_size_px),
        low_res=_black(config.low_res.image_size_px),
    )
    places = np.full(config.num_image_tokens, config.image_token_id, dtype=np.int32)
    yield Request(
        request_id="picture",
        prompt_ids=np.concatenate([text[:19], places, text[:19]]),
        images=(picture,),
        sampling=greedy,
    )
    yield Request(request_id="text", prompt_ids=text[:16], sampling=replace(greedy, logprobs=True))
    yield Request(request_id="longer", prompt_ids=text, sampling=greedy)
    # of another token, so that nothing of it is computed already
    others = np.full(100, other_id, dtype=np.int32)
    yield Request(request_id="longest", prompt_ids=others, sampling=greedy)
    text = text[:19]
    yield Request(request_id="draft", prompt_ids=text, sampling=greedy, draft_ids=text[:4])
    yield Request(request_id="sampled", prompt_ids=text, sampling=replace(greedy, temperature=1.0))
    yield Request(
        request_id="filtered",
        prompt_ids=text,
        sampling=replace(greedy, temperature=1.0, top_k=5, top_p=0.9),
    )


def _black(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.zeros((side, side, 3), dtype=np.uint8)
