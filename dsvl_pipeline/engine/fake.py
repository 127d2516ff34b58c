"""An engine without a model or torch: seeded text after a seeded delay, and seeded crashes.

Text and length are functions of what is asked (prompt ids and pixels), delay and crash of the
request id as well; all of them of ``FakeEngineConfig.seed``. So two runs agree row by row
whatever their batches, replicas and retries were, and a test can ask a fake engine of its own
what the answer should have been.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsvl_pipeline.engine.generate import generate_all
from dsvl_pipeline.errors import EngineError
from dsvl_pipeline.records import Completion, EngineConfig, FakeEngineConfig, FinishReason, Request

_TEXT = (
    "a the small large red green blue white page table chart photo street tree boat lamp "
    "shows holds beside under above with two three many words lines numbers"
)
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A request and when it is answered; ordered by that time, then by arrival."""

    due_s: float
    number: int
    submitted_s: float = field(compare=False)
    request: Request = field(compare=False)
    answer: _Answer = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Everything about a request that is drawn rather than computed."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...]
    delay_s: float
    crashes: bool
    marker: str


class FakeEngine:
    """Answer requests with seeded text; all requests run at once, each for its own delay."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config.fake or FakeEngineConfig()
        self._changed = threading.Condition()
        self._due: list[_Due] = []
        self._held: set[str] = set()
        self._ready: list[Completion] = []
        self._num_submitted = 0
        self._num_new_tokens = 0
        self._num_prompt_tokens = 0
        self._is_closed = False

    def submit(self, request: Request) -> None:
        answer = _draw(request, self._config)
        with self._changed:
            self._require_open()
            if request.request_id in self._held:
                raise ValueError(f"request {request.request_id!r} is already in the engine")
            self._held.add(request.request_id)
            now = time.monotonic()
            entry = _Due(now + answer.delay_s, self._num_submitted, now, request, answer)
            heapq.heappush(self._due, entry)
            self._num_submitted += 1
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self._changed:
            for entry in self._due:
                if entry.request.request_id == request_id:
                    self._due.remove(entry)
                    heapq.heapify(self._due)
                    self._finish(entry, is_cancelled=True)
                    self._changed.notify_all()
                    return

    def poll(self, timeout_s: float) -> list[Completion]:
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._require_open()
                self._finish_due()
                remaining_s = deadline_s - time.monotonic()
                if self._ready or remaining_s <= 0:
                    ready, self._ready = self._ready, []
                    self._held.difference_update(completion.request_id for completion in ready)
                    return ready
                if self._due:
                    remaining_s = min(remaining_s, self._due[0].due_s - time.monotonic())
                self._changed.wait(max(remaining_s, 0.0))

    def stats(self) -> dict[str, float]:
        with self._changed:
            return {
                "new_tokens": float(self._num_new_tokens),
                "prompt_tokens": float(self._num_prompt_tokens),
                "sequences_running": float(len(self._due)),
                "sequences_waiting": 0.0,
            }

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._due.clear()
            self._changed.notify_all()

    def generate(self, requests: list[Request]) -> list[Completion]:
        return generate_all(self, requests)

    def _require_open(self) -> None:
        if self._is_closed:
            raise EngineError("the engine was closed")

    def _finish_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0].due_s <= now:
            entry = heapq.heappop(self._due)
            if entry.answer.crashes:
                _crash_once(self._config.crash_dir, entry.answer.marker)
            self._finish(entry, is_cancelled=False)

    def _finish(self, entry: _Due, *, is_cancelled: bool) -> None:
        request, answer = entry.request, entry.answer
        token_ids = () if is_cancelled else answer.token_ids
        elapsed_s = time.monotonic() - entry.submitted_s
        self._num_new_tokens += len(token_ids)
        self._num_prompt_tokens += len(request.prompt_ids)
        self._ready.append(
            Completion(
                request_id=request.request_id,
                completion_ids=np.array(token_ids, dtype=np.int32),
                text=" ".join(_WORDS[token_id] for token_id in token_ids),
                finish_reason="cancelled" if is_cancelled else answer.finish_reason,
                num_prompt_tokens=len(request.prompt_ids),
                logprobs=np.array(answer.logprobs[: len(token_ids)], dtype=np.float32)
                if request.sampling.logprobs
                else None,
                timings={"first_token_s": elapsed_s, "finished_s": elapsed_s},
            )
        )


def _draw(request: Request, config: FakeEngineConfig) -> _Answer:
    content = _digest(
        str(config.seed).encode(),
        np.ascontiguousarray(request.prompt_ids, dtype=np.int32).tobytes(),
        *(image.digest for image in request.images),
    )
    attempt = _digest(content, request.request_id.encode())
    text, fate = random.Random(content), random.Random(attempt)
    wanted = 1 + int(_exponential(text, max(config.mean_completion_tokens - 0.5, 0.0)))
    length = min(wanted, request.sampling.max_new_tokens)
    return _Answer(
        token_ids=tuple(int(text.random() * len(_WORDS)) for _ in range(length)),
        logprobs=tuple(-_exponential(text, 1.0) for _ in range(length)),
        finish_reason="stop" if length == wanted else "length",
        delay_s=_exponential(fate, config.mean_delay_s),
        crashes=fate.random() < config.crash_rate,
        marker=attempt.hex(),
    )


def _digest(*parts: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for part in _with_lengths(parts):
        state.update(part)
    return state.digest()


def _with_lengths(parts: Iterable[bytes]) -> Iterable[bytes]:
    # Without lengths, ("ab", "c") and ("a", "bc") would draw the same answer.
    for part in parts:
        yield len(part).to_bytes(8, "little")
        yield part


def _exponential(source: random.Random, mean: float) -> float:
    return -mean * math.log(1.0 - source.random())


def _crash_once(crash_dir: str | None, marker: str) -> None:
    """Kill the process, unless a marker says that this request has killed one before."""
    if crash_dir is not None:
        try:
            (Path(crash_dir) / marker).touch(exist_ok=False)
        except FileExistsError:
            return
    os._exit(1)
