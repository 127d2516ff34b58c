"""A model that says what it is told, to test the engine around it.

The token that follows is a function of the token before: ``script[id]``, by default ``id + 1``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.model.config import LlamaConfig, ModelConfig, SiglipConfig
from dsvl_pipeline.model.image_config import ImageConfig, TowerImageConfig
from dsvl_pipeline.records import (
    Completion,
    EngineConfig,
    ImageInput,
    Request,
    SamplingParams,
)

VOCAB_SIZE, EOS, IMAGE_TOKEN, SIDE_PX = 400, 1, 2, 32
PAGE_BYTES_PER_TOKEN = 8

CONFIG = ModelConfig(
    text=LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=1,
        intermediate_size=1,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        rms_norm_eps=1e-6,
        rope_theta=1e4,
        max_positions=100_000,
    ),
    low_res=SiglipConfig(
        image_size_px=SIDE_PX,
        patch_size_px=16,
        hidden_size=1,
        intermediate_size=1,
        num_layers=1,
        num_heads=1,
        layer_norm_eps=1e-6,
        activation="gelu",
    ),
    high_res=None,
    image_token_id=IMAGE_TOKEN,
)
IMAGE_CONFIG = ImageConfig(
    low_res=TowerImageConfig(
        side_px=SIDE_PX,
        mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.25, 0.2),
        resample=2,
        background=(127, 102, 76),
        rescale_factor=1 / 255,
    ),
    high_res=None,
    min_size_px=14,
)


class ScriptedModel(nn.Module):
    """Stands for `DeepseekVL`.

    Attributes:
        encoded: Pixel values of every call of `encode_images`.
        before_step: Called at every step; may wait or raise.
    """

    def __init__(self, script: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.config = CONFIG
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.following = torch.arange(1, VOCAB_SIZE + 1) % VOCAB_SIZE
        for token_id, following in (script or {}).items():
            self.following[token_id] = following
        self.encoded: list[Tensor] = []
        self.before_step: Callable[[], None] = lambda: None

    def encode_images(self, low_res: Tensor, high_res: Tensor | None) -> Tensor:
        assert high_res is None
        self.encoded.append(low_res)
        return torch.zeros(len(low_res), CONFIG.num_image_tokens, 1)

    def embed(self, ids: Tensor, image_features: Tensor | None) -> Tensor:
        assert image_features is None
        return ids[:, None].float()

    def forward(self, hidden: Tensor, packed: Any, kv: Any, last: Any = None) -> Tensor:
        self.before_step()
        return hidden if last is None else hidden[last.rows]

    def logits(self, hidden: Tensor) -> Tensor:
        following = self.following[hidden[:, 0].long()]
        return 1.0 + 7.0 * nn.functional.one_hot(following, VOCAB_SIZE).float()


def decode(ids: Sequence[int]) -> str:
    """Decode ids 100 to 355 as bytes; the others are special tokens."""
    return bytes(i - 100 for i in ids if 100 <= i < 356).decode(errors="replace")


def bytes_of(token_id: int) -> bytes:
    """Return what an id adds to the text."""
    return bytes([token_id - 100]) if 100 <= token_id < 356 else b""


def spell(text: str) -> list[int]:
    """Return the ids of a text, one for each byte."""
    return [byte + 100 for byte in text.encode()]


def says(text: str) -> dict[int, int]:
    """Return a script that says a text of distinct bytes after token 3, then ends the sequence."""
    ids = [3, *spell(text), EOS]
    assert len(set(ids)) == len(ids)
    return dict(pairwise(ids))


def engine_config(*, num_pages: int = 1000, page_size: int = 4, **settings: int) -> EngineConfig:
    """Ask for a number of pages, by way of the memory that they take."""
    gib = (num_pages + 0.5) * page_size * PAGE_BYTES_PER_TOKEN / 2**30
    return EngineConfig(kv_cache_gib=gib, page_size_tokens=page_size, **settings)


def make_core(model: ScriptedModel | None = None, **settings: int) -> EngineCore:
    """Make an engine without a thread around a scripted model."""
    return EngineCore(
        model or ScriptedModel(),
        engine_config(**settings),
        decode=decode,
        bytes_of=bytes_of,
        eos_token_ids=[EOS],
        image_config=IMAGE_CONFIG,
    )


def make_engine(model: ScriptedModel | None = None, **settings: int) -> ModelEngine:
    """Make an engine around a scripted model."""
    step_timeout_s = engine_config(**settings).step_timeout_s
    return ModelEngine(make_core(model, **settings), step_timeout_s=step_timeout_s)


def make_request(request_id: str = "row", *prompt_ids: int, **sampling: Any) -> Request:
    """Make a text request; the prompt is token 3 unless given."""
    return Request(
        request_id=request_id,
        prompt_ids=np.array(prompt_ids or [3], dtype=np.int32),
        sampling=SamplingParams(**sampling),
    )


def picture(seed: int) -> ImageInput:
    """Make a random picture of bytes, read-only as an object store gives it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return ImageInput(digest=bytes([seed]), high_res=None, low_res=pixels)


def image_request(request_id: str, *images: ImageInput, **sampling: Any) -> Request:
    """Make a request whose prompt is its images and token 3."""
    ids = [IMAGE_TOKEN] * (CONFIG.num_image_tokens * len(images)) + [3]
    text = make_request(request_id, *ids, **sampling)
    return Request(
        request_id=request_id, prompt_ids=text.prompt_ids, images=images, sampling=text.sampling
    )


def expect_short(core: EngineCore) -> None:
    """Let an engine believe that completions are short, so that it admits too many."""
    for _ in range(32):
        core._scheduler._lengths.note(1)


def run(core: EngineCore) -> dict[str, Completion]:
    """Step until all is answered; return the completions by request id."""
    done: dict[str, Completion] = {}
    while True:
        for completion in core.take_completions():
            assert completion.request_id not in done
            done[completion.request_id] = completion
        if not core.has_work:
            return done
        core.step()


def answer(core: EngineCore, request: Request) -> Completion:
    """Return the completion of one request."""
    core.add(request, submitted_s=0.0)
    return run(core)[request.request_id]


class Gate:
    """Holds a model's steps until it is opened."""

    def __init__(self, model: ScriptedModel) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        model.before_step = self._wait

    def _wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(10.0)
