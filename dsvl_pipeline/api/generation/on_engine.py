"""Answers of an engine: padded tensors to requests, answers to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.api.generation.plan import Plan
from dsvl_pipeline.api.generation.steps import Prompts
from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.device.memory import kv_gib_for
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import image_config_of_shape
from dsvl_pipeline.records import EngineConfig, ImageInput, Request, SamplingParams

PromptIds = NDArray[np.int32]

_MOST_SEQUENCES = 256


def answer_on_engine(model: Any, prompts: Prompts, plan: Plan) -> Tensor:
    """Answer prompts on an engine of their own.

    Args:
        model: One of the public ones.
        prompts: With ids.
        plan: Greedy or sampled, without beams.

    Returns:
        ``int64[B * answers, T + new]``: the prompts as given, then the answers.

    Raises:
        PromptError: The engine cannot run a prompt.
        ValueError: Prompts and pictures differ in number.
    """
    network, ids = model.network, prompts.input_ids
    unpadded = unpad(ids, prompts.attention_mask)
    images = deal_images(
        unpadded,
        network.config,
        prompts.others.get("pixel_values"),
        prompts.others.get("high_res_pixel_values"),
    )
    num_answers = plan.config.num_return_sequences
    rows = [prompt for prompt in unpadded for _ in range(num_answers)]
    pictures = [some for some in images for _ in range(num_answers)]
    answers = _answer(network, rows, pictures, plan)
    repeated = ids.repeat_interleave(num_answers, 0)
    return torch.cat([repeated, pad_right(answers, plan.pad_token_id, like=ids)], dim=1)


def _sampling(plan: Plan, seed: int) -> SamplingParams:
    config = plan.config
    common: dict[str, Any] = {
        "max_new_tokens": plan.max_new_tokens,
        "repetition_penalty": config.repetition_penalty,
        "stop_token_ids": plan.eos_token_ids,
    }
    if not config.do_sample:
        return SamplingParams(**common)
    return SamplingParams(
        **common,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p or 0.0,
        seed=seed,
    )


def unpad(input_ids: Tensor, attention_mask: Tensor) -> list[PromptIds]:
    """Take the prompts out of their rows."""
    ids = input_ids.cpu().numpy().astype(np.int32)
    kept = attention_mask.bool().cpu().numpy()
    return [row[keep] for row, keep in zip(ids, kept, strict=True)]


def deal_images(
    prompts: Sequence[PromptIds],
    config: ModelConfig,
    pixel_values: Tensor | None,
    high_res_pixel_values: Tensor | None,
) -> list[tuple[ImageInput, ...]]:
    """Deal the pictures out to the prompts, by the number of their image tokens.

    Raises:
        ValueError: The prompts want more or fewer pictures than there are.
    """
    low = [] if pixel_values is None else list(pixel_values.float().cpu().numpy())
    high = [None] * len(low)
    if high_res_pixel_values is not None:
        high = list(high_res_pixel_values.float().cpu().numpy())
    images = [_image_input(*pair) for pair in zip(low, high, strict=True)]
    counts = [
        int((prompt == config.image_token_id).sum()) // config.num_image_tokens
        for prompt in prompts
    ]
    if sum(counts) != len(images):
        raise ValueError(
            f"the prompts have image tokens for {sum(counts)} images, but pixel_values holds "
            f"{len(images)}; pass all that the processor returned"
        )
    rest = iter(images)
    return [tuple(next(rest) for _ in range(count)) for count in counts]


def _answer(
    model: DeepseekVL,
    prompts: Sequence[PromptIds],
    images: Sequence[tuple[ImageInput, ...]],
    plan: Plan,
) -> list[list[int]]:
    """Run an engine for these prompts alone and return the new ids of each."""
    seeds = _draw_seeds(len(prompts)) if plan.config.do_sample else [0] * len(prompts)
    requests = [
        Request(
            request_id=str(index),
            prompt_ids=prompt,
            images=images[index],
            sampling=_sampling(plan, seeds[index]),
        )
        for index, prompt in enumerate(prompts)
    ]
    config = _engine_config(model, [len(prompt) + plan.max_new_tokens for prompt in prompts])
    engine = ModelEngine(
        EngineCore(
            model,
            config,
            decode=lambda _: "",  # nobody reads the text
            eos_token_ids=(),  # each request names its own
            image_config=image_config_of_shape(model.config),  # pixel values come normalised
        ),
        step_timeout_s=config.step_timeout_s,
    )
    try:
        completions = engine.generate(requests)
    finally:
        engine.close()  # gives the memory back
    for completion in completions:
        if completion.error is not None:
            raise PromptError(
                completion.error.code,
                f"prompt {completion.request_id}: {completion.error.message}",
            )
    return [completion.completion_ids.tolist() for completion in completions]


def _draw_seeds(count: int) -> list[int]:
    """Draw from torch's generator, so that torch.manual_seed repeats a call.

    Not for greedy calls: they must not move the generator.
    """
    seeds: list[int] = torch.randint(2**62, (count,)).tolist()
    return seeds


def _engine_config(model: DeepseekVL, lengths: Sequence[int]) -> EngineConfig:
    """Take memory for just these answers: unlike a job's, this engine lives for one call."""
    page_size = EngineConfig().page_size_tokens
    parameter = next(model.parameters())
    longest = model.config.text.max_positions
    at_once = sorted((min(length, longest) for length in lengths), reverse=True)[:_MOST_SEQUENCES]
    gib = kv_gib_for(
        at_once,
        model.config,
        page_size=page_size,
        dtype=parameter.dtype,
        device=parameter.device,
    )
    return EngineConfig(
        kv_cache_gib=gib, max_num_sequences=len(at_once), page_size_tokens=page_size
    )


def pad_right(answers: Sequence[Sequence[int]], pad: int, *, like: Tensor) -> Tensor:
    """Stack answers of unequal length, ``int64[B, longest]`` on the device of ``like``."""
    stacked = like.new_full((len(answers), max(map(len, answers))), pad)
    for row, ids in zip(stacked, answers, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return stacked


def _image_input(low_res: NDArray[np.float32], high_res: NDArray[np.float32] | None) -> ImageInput:
    digest = sha256(low_res.tobytes(), usedforsecurity=False)
    if high_res is not None:
        digest.update(high_res.tobytes())
    return ImageInput(digest=digest.digest()[:16], high_res=high_res, low_res=low_res)
