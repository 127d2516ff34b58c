"""One engine with random weights, timed over a set of requests."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from benchmarks.shapes import EOS_TOKEN_ID, FIRST_WORD_ID, Shape, build_model, decode_nothing
from benchmarks.workloads import WARM_UP, Workload, make_images, make_requests
from dsvl_pipeline.engine.core import EngineCore
from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.device.runner import Launched
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.records import Completion, EngineConfig, ImageInput, Request

Figures = dict[str, Any]
TokenAt = Callable[[Request, int], int]
"""The token of a request at a place of its completion."""

_GIB = 1 << 30
_STALLED_S = 120.0  # nothing finishes for so long only when something hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is measured, and how much of it.

    Attributes:
        shape: Of the model.
        device: As torch names it.
        settings: Of `EngineConfig`, from the command line.
        share: Of every workload's requests that is run.
        tokens: Of every workload's lengths.
    """

    shape: Shape
    device: str
    settings: Mapping[str, Any]
    share: float
    tokens: float

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def scaled(self, workload: Workload) -> Workload:
        return workload.scaled(self.share, tokens=self.tokens)


@dataclass(slots=True)
class Script:
    """What a model with random weights is to say; what it chose itself, where ``token_at`` is None.

    Everything else is as always: what is proposed, verified, compared and read.
    """

    token_at: TokenAt | None = None


class ScriptedCore(EngineCore):
    """An engine that reads a script's tokens in place of those that the device has chosen."""

    def __init__(self, script: Script, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._script = script

    def read_token_ids(self, launched: Launched) -> Sequence[int]:
        """Wait for the device's tokens, and give the script's."""
        ids, token_at = super().read_token_ids(launched), self._script.token_at
        if token_at is None:
            return ids
        rows, positions = launched.forwarded.rows, launched.forwarded.positions.tolist()
        sequences = [chunk.sequence for chunk in rows]
        return [
            token_id if s.is_finished else token_at(s.request, position - s.num_prompt_tokens)
            for token_id, s, position in zip(ids, sequences, positions, strict=True)
        ]


class EngineRun:
    """A model of one precision, and an engine on it that is made again after it failed."""

    def __init__(self, setup: Setup, precision: str) -> None:
        self.setup = setup
        self.precision = precision
        self._quantization = "fp8" if precision == "fp8" else "none"
        self.model: DeepseekVL | None = build_model(
            setup.shape,
            dtype=torch.bfloat16 if setup.is_cuda else torch.float32,
            device=setup.device,
            quantization=self._quantization,
        )
        self._engine: ModelEngine | None = None
        self._script = Script()
        self._has_drafts = False

    def measure(self, workload: Workload) -> Figures:
        """Run a workload on a warm engine."""
        workload = self.setup.scaled(workload)
        engine = self.engine(has_drafts=workload.has_drafts)
        requests = make_requests(workload, self.setup.shape)
        if self.setup.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        with contextlib.nullcontext() if workload.is_foreseen else self._ends_said(workload):
            found = time_requests(engine, requests) | self._memory()
        stats = found["stats"]
        if stats.get("drafted_tokens"):
            share = stats["accepted_tokens"] / stats["drafted_tokens"]
            steps = stats["decode_steps"]
            print(f"  {workload.name}: {share:.1%} of drafted tokens accepted, {steps:.0f} steps")
        return found

    def measure_vision(self, batch_sizes: Sequence[int] = (8, 16, 32)) -> Figures:
        """Encode pictures alone, bytes in host memory to features, by batch size."""
        assert self.model is not None
        num_images = 256 if self.setup.is_cuda else 4
        images = make_images("vision", num_images, self.setup.shape)
        found: Figures = {}
        with torch.inference_mode():
            for size in batch_sizes:
                encode(self.model, self.setup.shape, images[:size], size)
                self._synchronize()
                began = time.perf_counter()
                encode(self.model, self.setup.shape, images, size)
                self._synchronize()
                found[str(size)] = num_images / (time.perf_counter() - began)
        return {"images_per_s": max(found.values()), "by_batch": found} | self._memory()

    def engine(self, *, has_drafts: bool = False) -> ModelEngine:
        """Return a warm engine: what it compiles and captures is not measured."""
        if self._engine is not None and has_drafts != self._has_drafts:
            self.stop_engine()
        if self._engine is None:
            assert self.model is not None
            began = time.perf_counter()
            self._has_drafts = has_drafts
            config = make_config(self._quantization, self.setup.settings)
            self._script.token_at = as_drafted(share=0.9, seed=0) if has_drafts else None
            self._engine = ModelEngine(
                ScriptedCore(
                    self._script,
                    self.model,
                    config,
                    decode=decode_nothing,
                    eos_token_ids=[EOS_TOKEN_ID],
                    image_config=self.setup.shape.images,
                ),
                step_timeout_s=config.step_timeout_s,
            )
            workload = replace(WARM_UP, has_drafts=has_drafts)
            if not self.setup.is_cuda:  # there, every batch size must have been run once
                workload = self.setup.scaled(workload)
            warm_up = make_requests(workload, self.setup.shape)
            time_requests(self._engine, warm_up)
            print(
                f"  {self.precision}: engine made and warmed up with {len(warm_up)} requests in "
                f"{time.perf_counter() - began:.1f} s, not counted",
                flush=True,
            )
        return self._engine

    def stop_engine(self) -> None:
        """Free the engine's memory; the next measurement makes a new one."""
        if self._engine is not None:
            with contextlib.suppress(Exception):  # it may have died
                self._engine.close()
        self._engine = None
        _free(self.setup)

    def close(self) -> None:
        """Free everything."""
        self.stop_engine()
        self.model = None
        _free(self.setup)

    @contextlib.contextmanager
    def _ends_said(self, workload: Workload) -> Iterator[None]:
        """Have the model end each completion at its length."""
        self._script.token_at = until_length(workload)
        yield
        self._script.token_at = None

    def _synchronize(self) -> None:
        if self.setup.is_cuda:
            torch.cuda.synchronize()

    def _memory(self) -> Figures:
        if not self.setup.is_cuda:
            return {}
        free, total = torch.cuda.mem_get_info()
        return {
            "peak_gib": torch.cuda.max_memory_allocated() / _GIB,
            "used_gib": (total - free) / _GIB,
        }


def as_drafted(*, share: float, seed: int) -> TokenAt:
    """Return what requests' drafts say, but for a seeded share of other tokens.

    With random weights no draft would ever be right.
    """
    texts: dict[str, list[int]] = {}

    def token_at(request: Request, place: int) -> int:
        text = texts.get(request.request_id)
        if text is None:
            assert request.draft_ids is not None
            random = np.random.default_rng([seed, *request.request_id.encode()])
            is_other = random.random(len(request.draft_ids)) >= share
            text = np.where(is_other, request.draft_ids ^ 1, request.draft_ids).tolist()
            texts[request.request_id] = text
        return text[place]

    return token_at


def until_length(workload: Workload) -> TokenAt:
    """Return words, and the end of sequence at each completion's length."""
    lengths = workload.lengths().tolist()

    def token_at(request: Request, place: int) -> int:
        length = lengths[int(request.request_id.rpartition("-")[2])]
        return EOS_TOKEN_ID if place + 1 == length else FIRST_WORD_ID + place

    return token_at


def encode(model: DeepseekVL, shape: Shape, images: Sequence[ImageInput], size: int) -> None:
    """Encode pictures in batches of ``size``, as the engine does before a prefill."""
    features = ImageFeatures(model, shape.images)
    features._images_per_pass = size
    features.encode(images)


def make_config(quantization: str, settings: Mapping[str, Any]) -> EngineConfig:
    """Make the engine's settings; fields that it does not have yet may keep their defaults."""
    known = {field.name for field in fields(EngineConfig)}
    wanted: dict[str, Any] = {**settings, "quantization": quantization}
    if quantization == "none" and "quantization" not in known:
        del wanted["quantization"]
    return EngineConfig(**wanted)


def time_requests(engine: ModelEngine, requests: Sequence[Request]) -> Figures:
    """Submit everything at once and wait for the last completion.

    Raises:
        RuntimeError: A request failed, came out too short, or nothing finishes any more.
    """
    before = engine.stats()
    running = 0.0  # sequences, integrated over time
    done: dict[str, Completion] = {}
    began = last = now = time.perf_counter()
    for request in requests:
        engine.submit(request)
    while len(done) < len(requests):
        for completion in engine.poll(0.05):
            done[completion.request_id] = completion
            last = time.perf_counter()
        previous, now = now, time.perf_counter()
        running += engine.stats()["sequences_running"] * (now - previous)
        if now - last > _STALLED_S:
            raise RuntimeError(f"{len(requests) - len(done)} requests hang: {engine.stats()}")
    seconds = last - began
    _check(requests, done)
    after = engine.stats()
    num_new = sum(len(completion.completion_ids) for completion in done.values())
    distinct = {completion.completion_ids.tobytes() for completion in done.values()}
    first_s = [found.timings["first_token_s"] for found in done.values()]
    return {
        "requests": len(requests),
        "seconds": seconds,
        "images_per_s": len(requests) / seconds,
        "tokens_per_s": num_new / seconds,
        "new_tokens": num_new,
        "distinct_share": len(distinct) / len(requests),
        "mean_running": running / (now - began),
        "first_token_median_s": statistics.median(first_s),
        "stats": _difference(before, after),
    }


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Counters and seconds of this run alone; gauges as they are."""
    gauges = ("sequences_", "kv_pages_", "occupancy", "mean_", "max_")
    return {
        name: value if name.startswith(gauges) else value - before.get(name, 0.0)
        for name, value in after.items()
    }


def _check(requests: Sequence[Request], done: Mapping[str, Completion]) -> None:
    for request in requests:
        completion = done[request.request_id]
        if completion.error is not None:
            raise RuntimeError(f"{request.request_id}: {completion.error}")
        found, wanted = len(completion.completion_ids), request.sampling.max_new_tokens
        has_end = not request.sampling.ignore_eos and completion.completion_ids[-1] == EOS_TOKEN_ID
        is_right = found == wanted or (has_end and found < wanted)
        if not is_right or completion.completion_ids.dtype != np.int32:
            raise RuntimeError(f"{request.request_id}: {found} tokens instead of {wanted}")


def _free(setup: Setup) -> None:
    gc.collect()
    if setup.is_cuda:
        torch.cuda.empty_cache()
