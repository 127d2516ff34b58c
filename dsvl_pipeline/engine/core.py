"""The engine without its thread: requests in, steps, completions out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.device.memory import allocate_pages
from dsvl_pipeline.engine.device.runner import Forwarded, Launched, Runner
from dsvl_pipeline.engine.request_check import find_fault
from dsvl_pipeline.engine.schedule.cut_character import BytesOf, decode_whole
from dsvl_pipeline.engine.schedule.drafts import Draft
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.prefix import page_keys, text_before_images
from dsvl_pipeline.engine.schedule.repetition import RepetitionGuard
from dsvl_pipeline.engine.schedule.scheduler import Scheduler
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk, Decode, Prefill, Step
from dsvl_pipeline.engine.schedule.stop_text import DecodeIds, StopText, cut_before
from dsvl_pipeline.engine.schedule.structured import Grammars, Matcher
from dsvl_pipeline.errors import CapacityError, EngineError, GrammarError
from dsvl_pipeline.model.config import ImageConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.records import Completion, EngineConfig, FinishReason, Request, RowFailure
from dsvl_pipeline.wording import amount

# Of the matrix products that the libraries choose on an H200 for a few hundred rows.
_ROWS_PER_TILE = 128
_COUNTERS = (
    "steps",
    "decode_steps",
    "prompt_tokens",
    "new_tokens",
    "images_encoded",
    "drafted_tokens",
    "accepted_tokens",
    "step_downs",
)
_PHASES = ("vision", "prefill", "decode", "host")


class EngineCore:
    """Everything an engine does, one call at a time; not thread-safe.

    Each request becomes exactly one completion, be it an answer, a cancellation or a refusal.

    Attributes:
        says: Benchmarks with random weights put words into the model's mouth: the token of a
            request at a place of its completion, in place of the one that was chosen.
    """

    says: ClassVar[Callable[[Request, int], int] | None] = None

    def __init__(
        self,
        model: DeepseekVL,
        config: EngineConfig,
        *,
        decode: DecodeIds,
        eos_token_ids: Seq[int],
        bytes_of: BytesOf | None = None,
        image_config: ImageConfig,
        grammars: Grammars | None = None,
    ) -> None:
        parameter = next(model.parameters())
        num_lanes = config.num_sequences(has_gpu=parameter.device.type != "cpu")
        features = ImageFeatures(model, image_config)
        kv = allocate_pages(config, model, num_sequences=num_lanes)
        self._num_lanes = num_lanes
        self._model_config = model.config
        self._image_config = image_config
        self._grammars = grammars
        self._shares_prefixes = config.prefix_sharing
        self._decode = decode
        self._bytes_of = bytes_of
        self._eos_token_ids = frozenset(eos_token_ids)
        self._pool = PagePool(num_pages=kv.k.shape[1] - 1, page_size=kv.page_size)
        self._scheduler = Scheduler(
            self._pool,
            max_num_sequences=num_lanes,
            max_step_tokens=config.max_step_tokens,
            rows_per_tile=_ROWS_PER_TILE if parameter.is_cuda else 1,
        )
        self._runner = Runner(
            model,
            kv=kv,
            num_lanes=num_lanes,
            features=features,
            use_graphs=config.cuda_graphs,
        )
        self._images_ahead = features.images_per_pass
        self._launched: Launched | None = None  # the step whose tokens are not read yet
        self._sequences: dict[str, Sequence] = {}
        self._completions: list[Completion] = []
        self._num_arrived = 0
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(_PHASES, 0.0)

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
        if request_id in self._sequences:
            self._take_tokens()  # one of them may be its
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "cancelled")

    def step(self) -> None:
        """Give the device its next step, and take the tokens of the one before.

        The device is busy with the new step while the host looks at the tokens of the last one:
        whether they end a completion, and what a grammar allows next.
        """
        begun_s = time.perf_counter()
        step = self._scheduler.next_step()
        if step is None and self._launched is not None:
            self._take_tokens()  # all that runs waits for these
            step = self._scheduler.next_step()
        if step is not None and not self._launch(step):
            self._step_down(step)
        self._seconds["host"] += time.perf_counter() - begun_s

    def _launch(self, step: Step) -> bool:
        """Queue a step and read the one before; return False where the memory does not suffice."""
        try:
            upcoming = self._scheduler.upcoming(self._images_ahead)
            forwarded = self._runner.forward(step, upcoming)
            self._take_tokens()
            self._launched = self._runner.sample(forwarded, self._allowed(forwarded))
        except torch.OutOfMemoryError:
            return False
        except BaseException:
            self._take_tokens()  # what was finished before is still good
            raise
        return True

    def _step_down(self, step: Step) -> None:
        """Take a step back and go on with smaller ones."""
        self._take_tokens()
        torch.cuda.empty_cache()
        self._counts["step_downs"] += 1
        if not self._scheduler.step_down(step):
            raise EngineError(
                f"the device has no memory for a step of "
                f"{amount(len(step.chunks), 'sequence')}, and smaller "
                "ones are not possible; lower engine.kv_cache_gib, or use a larger device"
            )

    def take_completions(self) -> list[Completion]:
        """Return what was finished since the last call."""
        ready, self._completions = self._completions, []
        return ready

    def stats(self) -> dict[str, float]:
        """Counters since the start, gauges of now, and where the seconds went.

        ``prompt_tokens`` counts what was prefilled, tokens recomputed after preemption included.
        ``vision_s``, ``prefill_s`` and ``decode_s`` are the device's; ``host_s`` are all of the
        engine's steps, waiting for the device included. ``occupancy`` is the mean share of lanes
        that a decode step filled.
        """
        rows = self._counts["decode_rows"]
        lanes = self._counts["decode_steps"] * self._num_lanes
        return {
            **{name: float(self._counts[name]) for name in _COUNTERS},
            "preemptions": float(self._scheduler.num_preemptions),
            "reused_tokens": float(self._scheduler.num_reused_tokens),
            "sequences_running": float(self._scheduler.num_running),
            "sequences_waiting": float(self._scheduler.num_waiting),
            "occupancy": rows / lanes if lanes else 0.0,
            "kv_pages_used": float(self._scheduler.num_pages_used),
            "kv_pages_total": float(self._pool.num_pages),
            **{f"{name}_s": seconds for name, seconds in self._seconds.items()},
        }

    def _queue(self, request: Request, submitted_s: float) -> RowFailure | None:
        hash(request.request_id)  # or it would be in the queue before it is found out
        fault = find_fault(request, self._model_config, self._image_config)
        if fault is not None:
            return fault
        try:
            sequence = self._make_sequence(request, submitted_s)
            self._scheduler.add(sequence)
        except GrammarError as error:
            return RowFailure(code=error.code, message=str(error))
        except CapacityError as error:
            return RowFailure(code="capacity", message=str(error))
        self._sequences[request.request_id] = sequence
        return None

    def _make_sequence(self, request: Request, submitted_s: float) -> Sequence:
        sampling = request.sampling
        num_wanted = len(request.prompt_ids) + sampling.max_new_tokens
        stop_ids = frozenset(sampling.stop_token_ids)
        image_token_id = self._model_config.image_token_id
        self._num_arrived += 1
        shares = self._shares_prefixes
        return Sequence(
            request=request,
            number=self._num_arrived,
            max_tokens=min(num_wanted, self._model_config.text.max_positions),
            stop_ids=stop_ids if sampling.ignore_eos else stop_ids | self._eos_token_ids,
            stop_text=StopText(sampling.stop, self._decode) if sampling.stop else None,
            guard=RepetitionGuard(sampling.max_loop_tokens) if sampling.max_loop_tokens else None,
            matcher=self._matcher(request),
            draft=_draft(request),
            page_keys=page_keys(request, image_token_id, self._pool.page_size) if shares else (),
            shared_text=text_before_images(request, image_token_id) if shares else 0,
            submitted_s=submitted_s,
        )

    def _matcher(self, request: Request) -> Matcher | None:
        if request.schema is None and request.regex is None:
            return None
        if self._grammars is None:
            raise GrammarError(
                "schema_unsupported",
                "the request asks for text that satisfies a JSON schema or a regular expression, "
                "but the engine was made without a tokenizer; make it from a checkpoint",
            )
        return self._grammars.matcher(request.schema, request.regex)

    def _allowed(self, forwarded: Forwarded) -> NDArray[np.int32] | None:
        """Return the tokens that grammars allow in each row, None where there is no grammar."""
        rows = forwarded.rows
        if all(chunk.sequence.matcher is None for chunk in rows):
            return None
        width = -(-self._model_config.text.vocab_size // 32)
        allowed = np.full((len(rows), width), -1, dtype=np.int32)  # every bit set
        for row, chunk in zip(allowed, rows, strict=True):
            if chunk.sequence.matcher is not None and not chunk.sequence.is_finished:
                chunk.sequence.matcher.fill(row)
        return allowed

    def _take_tokens(self) -> None:
        """Read the step that was launched last and give its tokens to their sequences."""
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        step, rows = launched.forwarded.step, launched.forwarded.rows
        ids = launched.token_ids.read()
        logprobs = launched.logprobs.read() if launched.logprobs else [None] * len(ids)
        self._count(launched)
        if isinstance(step, Decode) and step.has_drafts:
            self._take_verified(step, ids, logprobs)
            return
        for chunk, token_id, logprob in zip(rows, ids, logprobs, strict=True):
            if not chunk.sequence.is_finished:
                self._accept(chunk.sequence, self._said(chunk.sequence, token_id), logprob)

    def _take_verified(self, step: Decode, ids: Seq[int], logprobs: Seq[float | None]) -> None:
        """Keep each sequence's tokens up to the first one that its draft did not foresee."""
        first = 0
        going_on = []
        for chunk in step.chunks:
            sequence, num_drafted = chunk.sequence, len(chunk.draft_ids)
            produced = ids[first : first + num_drafted + 1]
            if not sequence.is_finished:
                num_accepted = self._accept_run(
                    chunk, produced, logprobs[first : first + num_drafted + 1]
                )
                if sequence.draft is not None and num_drafted:
                    sequence.draft.note(num_drafted, num_accepted)
                    self._counts.update(drafted_tokens=num_drafted, accepted_tokens=num_accepted)
                sequence.num_planned = sequence.num_tokens
                if sequence.lane is not None:
                    # Keys and values of what was rejected are overwritten by the next step.
                    sequence.num_computed = sequence.num_tokens - 1
                    going_on.append(sequence)
            first += num_drafted + 1
        if going_on:
            self._runner.set_newest(going_on)

    def _accept_run(self, chunk: Chunk, produced: Seq[int], logprobs: Seq[float | None]) -> int:
        """Accept tokens while the draft goes on as they do; return how many it foresaw."""
        sequence = chunk.sequence
        for number, (token_id, logprob) in enumerate(zip(produced, logprobs, strict=True)):
            said = self._said(sequence, token_id)
            self._accept(sequence, said, logprob)
            is_foreseen = number < len(chunk.draft_ids) and chunk.draft_ids[number] == said
            if sequence.is_finished or not is_foreseen:
                return number + int(is_foreseen)
        return len(chunk.draft_ids)

    def _said(self, sequence: Sequence, token_id: int) -> int:
        if EngineCore.says is None:
            return token_id
        return EngineCore.says(sequence.request, len(sequence.completion_ids))

    def _accept(self, sequence: Sequence, token_id: int, logprob: float | None) -> None:
        if sequence.first_token_s is None:
            sequence.first_token_s = time.monotonic()
        self._counts["new_tokens"] += 1
        wanted = logprob if sequence.request.sampling.logprobs else None
        reason = sequence.accept(token_id, wanted)
        if reason is not None:
            self._finish(sequence, reason)

    def _count(self, launched: Launched) -> None:
        forwarded = launched.forwarded
        begin, seen = forwarded.marks
        self._counts.update(steps=1, images_encoded=forwarded.num_encoded)
        self._seconds["vision"] += begin.seconds_until(seen)
        seconds = seen.seconds_until(launched.end)
        match forwarded.step:
            case Prefill(chunks):
                self._counts["prompt_tokens"] += sum(chunk.end - chunk.start for chunk in chunks)
                self._seconds["prefill"] += seconds
            case Decode(chunks):
                self._counts.update(decode_steps=1, decode_rows=len(chunks))
                self._seconds["decode"] += seconds

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.is_finished = True
        self._scheduler.finish(sequence, is_whole=reason != "cancelled")
        self._runner.release(sequence)
        del self._sequences[sequence.request.request_id]
        self._completions.append(_completion(sequence, reason, self._decode, self._bytes_of))


def _draft(request: Request) -> Draft | None:
    """A draft's tokens are verified side by side, which a penalty or a grammar forbids."""
    if request.draft_ids is None or request.sampling.repetition_penalty != 1:
        return None
    is_free = request.schema is None and request.regex is None
    return Draft(request.draft_ids) if is_free else None


def _completion(
    sequence: Sequence, reason: FinishReason, decode: DecodeIds, bytes_of: BytesOf | None
) -> Completion:
    sampling, guard, matcher = sequence.request.sampling, sequence.guard, sequence.matcher
    num_kept = len(sequence.completion_ids)
    if reason == "repetition" and guard is not None:
        num_kept = guard.num_kept
    ids: list[int] = sequence.completion_ids[:num_kept].tolist()
    logprobs = np.array(sequence.logprobs[:num_kept], dtype=np.float32)
    has_stop_id = bool(ids) and ids[-1] in sequence.stop_ids
    said = ids[:-1] if has_stop_id else ids
    now = time.monotonic()
    timings = {"finished_s": now - sequence.submitted_s}
    if sequence.first_token_s is not None:
        timings["first_token_s"] = sequence.first_token_s - sequence.submitted_s
    fault = None
    if matcher is not None and matcher.error is not None:
        fault = RowFailure(
            code="schema_failed",
            message=f"the grammar could not be followed to its end: {matcher.error}",
        )
    return Completion(
        request_id=sequence.request.request_id,
        completion_ids=np.array(ids, dtype=np.int32),
        text=cut_before(
            decode(said) if reason == "stop" else decode_whole(said, decode, bytes_of),
            sampling.stop,
        ),
        finish_reason=reason,
        num_prompt_tokens=sequence.num_prompt_tokens,
        logprobs=logprobs if sampling.logprobs else None,
        timings=timings,
        error=fault,
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
