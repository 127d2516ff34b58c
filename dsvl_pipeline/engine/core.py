"""The engine without its thread: requests in, steps, completions out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence as Seq

import numpy as np

from dsvl_pipeline.engine.admission import find_fault
from dsvl_pipeline.engine.memory import resolve_num_pages, resolve_num_sequences
from dsvl_pipeline.engine.pages import PagePool
from dsvl_pipeline.engine.runner import Runner
from dsvl_pipeline.engine.scheduler import Decode, Prefill, Scheduler, Step
from dsvl_pipeline.engine.sequence import Sequence
from dsvl_pipeline.engine.stop_text import DecodeIds, StopText, cut_before
from dsvl_pipeline.errors import CapacityError
from dsvl_pipeline.model.config import ImageConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.records import Completion, EngineConfig, FinishReason, Request, RowFailure


class EngineCore:
    """Everything an engine does, one call at a time; not thread-safe.

    Each request becomes exactly one completion, be it an answer, a cancellation or a refusal.
    """

    def __init__(
        self,
        model: DeepseekVL,
        config: EngineConfig,
        *,
        decode: DecodeIds,
        eos_token_ids: Seq[int],
        image_config: ImageConfig,
    ) -> None:
        parameter = next(model.parameters())
        device = parameter.device
        num_lanes = resolve_num_sequences(config, device)
        num_pages = resolve_num_pages(
            config, model.config, num_sequences=num_lanes, dtype=parameter.dtype, device=device
        )
        page_size = config.page_size_tokens
        self._model_config = model.config
        self._image_config = image_config
        self._decode = decode
        self._eos_token_ids = frozenset(eos_token_ids)
        self._pool = PagePool(num_pages=num_pages, page_size=page_size)
        self._scheduler = Scheduler(
            self._pool, max_num_sequences=num_lanes, max_step_tokens=config.max_step_tokens
        )
        self._runner = Runner(
            model, image_config, num_pages=num_pages, page_size=page_size, num_lanes=num_lanes
        )
        self._sequences: dict[str, Sequence] = {}
        self._completions: list[Completion] = []
        self._num_arrived = 0
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(("vision", "prefill", "decode", "host"), 0)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, request: Request, *, submitted_s: float) -> None:
        """Queue a request; one that cannot be run is answered with an error.

        Args:
            request: Its id must not be in use.
            submitted_s: On the monotonic clock.
        """
        try:
            fault = self._queue(request, submitted_s)
        # A request is made by somebody else's code: an id of a wrong type, a nested list ... A bad
        # one must not take the others down.
        except Exception as error:
            fault = RowFailure(
                code="request_invalid",
                message=f"taking the request in failed with {type(error).__name__}: {error}; "
                "compare its fields with those that records.Request describes",
            )
        if fault is not None:
            self._completions.append(_refusal(request, fault))

    def cancel(self, request_id: str) -> None:
        """Finish a request with what it has so far; nothing happens if it is unknown or done."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "cancelled")

    def step(self) -> None:
        """Plan one step, run it, and take its tokens."""
        begun_s = time.perf_counter()
        step = self._scheduler.next_step()
        if step is None:
            return
        planned_s = time.perf_counter()
        num_encoded = self._runner.encode_images(step)
        encoded_s = time.perf_counter()
        produced = self._runner.launch(step).read()
        read_s = time.perf_counter()
        for sequence, token_id, logprob in produced:
            if sequence.first_token_s is None:
                sequence.first_token_s = time.monotonic()
            reason = sequence.accept(token_id, logprob)
            if reason is not None:
                self._finish(sequence, reason)

        self._counts.update(steps=1, new_tokens=len(produced), images_encoded=num_encoded)
        self._seconds["vision"] += encoded_s - planned_s
        self._count_step(step, read_s - encoded_s)
        self._seconds["host"] += planned_s - begun_s + time.perf_counter() - read_s

    def take_completions(self) -> list[Completion]:
        """Return what was finished since the last call."""
        ready, self._completions = self._completions, []
        return ready

    def stats(self) -> dict[str, float]:
        """Counters since the start, gauges of now, and where the seconds went.

        ``prompt_tokens`` counts what was prefilled, tokens recomputed after preemption included.
        """
        names = ("steps", "prompt_tokens", "new_tokens", "images_encoded")
        return {
            **{name: float(self._counts[name]) for name in names},
            "preemptions": float(self._scheduler.num_preemptions),
            "sequences_running": float(self._scheduler.num_running),
            "sequences_waiting": float(self._scheduler.num_waiting),
            "kv_pages_used": float(self._pool.num_used),
            "kv_pages_total": float(self._pool.num_pages),
            **{f"{name}_s": seconds for name, seconds in self._seconds.items()},
        }

    def _queue(self, request: Request, submitted_s: float) -> RowFailure | None:
        fault = find_fault(request, self._model_config, self._image_config)
        if fault is not None:
            return fault
        sequence = self._make_sequence(request, submitted_s)
        try:
            self._scheduler.add(sequence)
        except CapacityError as error:
            return RowFailure(code="capacity", message=str(error))
        self._sequences[request.request_id] = sequence
        return None

    def _make_sequence(self, request: Request, submitted_s: float) -> Sequence:
        sampling = request.sampling
        num_wanted = len(request.prompt_ids) + sampling.max_new_tokens
        stop_ids = frozenset(sampling.stop_token_ids)
        self._num_arrived += 1
        return Sequence(
            request=request,
            number=self._num_arrived,
            max_tokens=min(num_wanted, self._model_config.text.max_positions),
            stop_ids=stop_ids if sampling.ignore_eos else stop_ids | self._eos_token_ids,
            stop_text=StopText(sampling.stop, self._decode) if sampling.stop else None,
            submitted_s=submitted_s,
        )

    def _count_step(self, step: Step, seconds: float) -> None:
        match step:
            case Prefill(chunks):
                self._counts["prompt_tokens"] += sum(chunk.end - chunk.start for chunk in chunks)
                self._seconds["prefill"] += seconds
            case Decode():
                self._seconds["decode"] += seconds

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.finish(sequence)
        self._runner.release(sequence)
        del self._sequences[sequence.request.request_id]
        self._completions.append(_completion(sequence, reason, self._decode))


def _completion(sequence: Sequence, reason: FinishReason, decode: DecodeIds) -> Completion:
    sampling = sequence.request.sampling
    ids: list[int] = sequence.completion_ids.tolist()
    has_stop_id = bool(ids) and ids[-1] in sequence.stop_ids
    now = time.monotonic()
    timings = {"finished_s": now - sequence.submitted_s}
    if sequence.first_token_s is not None:
        timings["first_token_s"] = sequence.first_token_s - sequence.submitted_s
    return Completion(
        request_id=sequence.request.request_id,
        completion_ids=sequence.completion_ids.copy(),
        text=cut_before(decode(ids[:-1] if has_stop_id else ids), sampling.stop),
        finish_reason=reason,
        num_prompt_tokens=sequence.num_prompt_tokens,
        logprobs=np.array(sequence.logprobs, dtype=np.float32) if sampling.logprobs else None,
        timings=timings,
    )


def _refusal(request: Request, fault: RowFailure) -> Completion:
    return Completion(
        request_id=request.request_id,
        completion_ids=np.empty(0, dtype=np.int32),
        text="",
        finish_reason="cancelled",
        num_prompt_tokens=getattr(request.prompt_ids, "size", 0),
        timings={},
        error=fault,
    )
