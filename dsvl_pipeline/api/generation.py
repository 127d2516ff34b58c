"""What ``generate`` does beside arguments: padded tensors to requests, answers to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypedDict

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


class GenerateOptions(TypedDict, total=False):
    """What ``generate`` takes by name.

    What is not given, or None, comes from ``generation_config.json``, else from transformers'
    defaults: greedy, 20 new tokens, and top-k 50 when sampling.

    Attributes:
        max_new_tokens: Most new tokens of each answer.
        max_length: Most tokens of padded prompt and answer together, unless ``max_new_tokens`` is
            given.
        do_sample: Whether to sample rather than to take the likeliest token.
        temperature: Divides the logits.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probabilities reach this sum.
        min_p: Drop tokens less likely than this share of the likeliest one.
        repetition_penalty: Above 1 makes tokens of prompt and answer less likely.
        eos_token_id: Any of these ends an answer.
        pad_token_id: Fills behind shorter answers; by default the first end of sequence.
    """

    max_new_tokens: int | None
    max_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to answer: `GenerateOptions`, defaults filled in."""

    max_new_tokens: int
    is_sampled: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    eos_token_ids: tuple[int, ...]
    pad_token_id: int

    def sampling(self, seed: int) -> SamplingParams:
        """Return the same for the engine, with a seed if it is sampled."""
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


def resolve(defaults: GenerationDefaults, width: int, options: GenerateOptions) -> Settings:
    """Return how to answer prompts that are padded to ``width`` tokens.

    Raises:
        CheckpointError: The defaults ask for what this engine does not do.
        TypeError: There is no such option.
        ValueError: ``max_length`` leaves no room for an answer.
    """
    unknown = sorted(options.keys() - GenerateOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
    defaults.check_supported()
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    eos = given.get("eos_token_id", defaults.eos_token_ids)
    eos_token_ids = (eos,) if isinstance(eos, int) else tuple(eos)
    # Without an end of sequence nothing is ever padded.
    pad = defaults.pad_token_id
    if pad is None:
        pad = eos_token_ids[0] if eos_token_ids else 0
    return Settings(
        max_new_tokens=_num_new_tokens(
            defaults, width, options.get("max_new_tokens"), options.get("max_length")
        ),
        is_sampled=given.get("do_sample", defaults.do_sample),
        temperature=given.get("temperature", defaults.temperature),
        top_k=given.get("top_k", defaults.top_k),
        top_p=given.get("top_p", defaults.top_p),
        min_p=given.get("min_p", defaults.min_p),
        repetition_penalty=given.get("repetition_penalty", defaults.repetition_penalty),
        eos_token_ids=eos_token_ids,
        pad_token_id=given.get("pad_token_id", pad),
    )


def _num_new_tokens(
    defaults: GenerationDefaults, width: int, max_new_tokens: int | None, max_length: int | None
) -> int:
    """Return the most tokens of each answer to prompts that are padded to ``width`` tokens.

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
    """Return a mask where nobody gave one, as transformers does: padding is what has the pad id.

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
    seeds = _draw_seeds(len(prompts)) if settings.is_sampled else [0] * len(prompts)
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
