"""What ``generate`` does beside arguments: padded tensors to requests, answers to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.device.memory import kv_gib_for
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.generation_defaults import GenerationDefaults
from dsvl_pipeline.model.image_config import ImageConfig
from dsvl_pipeline.records import EngineConfig, ImageInput, Request, SamplingParams

PromptIds = NDArray[np.int32]

# transformers' own default: so many new tokens, where nothing else is said.
_DEFAULT_LENGTH = 20
_MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to answer: the arguments of ``generate``, defaults filled in."""

    max_new_tokens: int
    is_sampled: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    eos_token_ids: tuple[int, ...]

    @property
    def default_pad_id(self) -> int:
        """Pads where nobody names an id; without an end of sequence nothing is ever padded."""
        return self.eos_token_ids[0] if self.eos_token_ids else 0

    def sampling(self, seed: int) -> SamplingParams:
        """The same for the engine."""
        if not self.is_sampled:
            return SamplingParams(
                max_new_tokens=self.max_new_tokens,
                repetition_penalty=self.repetition_penalty,
                stop_token_ids=self.eos_token_ids,
            )
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
            stop_token_ids=self.eos_token_ids,
        )


def num_new_tokens(
    defaults: GenerationDefaults, width: int, max_new_tokens: int | None, max_length: int | None
) -> int:
    """Most tokens of each answer to prompts that are padded to ``width`` tokens.

    Raises:
        ValueError: ``max_length`` leaves no room for one.
    """
    if max_new_tokens is None:
        # Also where max_length is an argument: transformers merges both, and this one wins.
        max_new_tokens = defaults.max_new_tokens
    if max_new_tokens is None and max_length is None and defaults.max_length == _DEFAULT_LENGTH:
        max_new_tokens = _DEFAULT_LENGTH
    if max_new_tokens is not None:
        return max_new_tokens
    length = defaults.max_length if max_length is None else max_length
    if length <= width:
        raise ValueError(
            f"the prompts take {width} tokens, but max_length is {length}, answer included; "
            "raise it, or give max_new_tokens"
        )
    return length - width


def infer_mask(input_ids: Tensor, pad: int | None, eos_token_ids: Sequence[int]) -> Tensor:
    """Say what is padding where nobody did, as transformers does: what has the pad id.

    Unless that may as well be the end of sequence of a chat's earlier answer.
    """
    if pad is None or pad in eos_token_ids:
        return torch.ones_like(input_ids)
    return input_ids != pad


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


def answer(
    model: DeepseekVL,
    image_config: ImageConfig,
    prompts: Sequence[PromptIds],
    images: Sequence[tuple[ImageInput, ...]],
    settings: Settings,
) -> list[list[int]]:
    """Run an engine for these prompts alone and return the new ids of each.

    Raises:
        PromptError: The engine cannot run a prompt.
    """
    # Drawn from torch's generator, so that torch.manual_seed repeats a call, and only then:
    # a greedy call must not move the generator.
    seeds = [0] * len(prompts)
    if settings.is_sampled:
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
    requests = [
        Request(
            request_id=str(index),
            prompt_ids=prompt,
            images=images[index],
            sampling=settings.sampling(seeds[index]),
        )
        for index, prompt in enumerate(prompts)
    ]
    config = _engine_config(model, [len(prompt) + settings.max_new_tokens for prompt in prompts])
    engine = ModelEngine(
        EngineCore(
            model,
            config,
            decode=lambda _: "",  # nobody reads the text
            eos_token_ids=(),  # each request names its own
            image_config=image_config,
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
