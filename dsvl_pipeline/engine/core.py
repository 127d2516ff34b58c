"""The engine without its thread: requests in, steps, completions out."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from dsvl_pipeline.engine.completions import make_completion, make_refusal
from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.device.memory import allocate_pages
from dsvl_pipeline.engine.device.runner import Forwarded, Launched, Runner
from dsvl_pipeline.engine.schedule.cut_character import BytesOf
from dsvl_pipeline.engine.schedule.pages import PagePool
from dsvl_pipeline.engine.schedule.scheduler import Scheduler
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk, Decode, Step
from dsvl_pipeline.engine.schedule.stop_text import DecodeIds
from dsvl_pipeline.engine.schedule.structured import Grammars
from dsvl_pipeline.engine.sequence_factory import SequenceFactory
from dsvl_pipeline.engine.stats import EngineStats
from dsvl_pipeline.errors import CapacityError, EngineError, GrammarError
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import ImageConfig
from dsvl_pipeline.records import Completion, EngineConfig, FinishReason, Request, RowFailure
from dsvl_pipeline.wording import amount

# Of the matrix products that the libraries choose on an H200 for a few hundred rows.
_ROWS_PER_TILE = 128


class EngineCore:
    """Everything an engine does, one call at a time; not thread-safe.

    Each request becomes exactly one completion, be it an answer, a cancellation or a refusal.

    Args:
        model: On its device, in evaluation mode.
        config: How much of the device may be used; KV pages are taken at once.
        decode: Token ids to text without special tokens.
        eos_token_ids: Any of them ends a completion.
        image_config: How bytes become pixel values.
        grammars: For requests with a JSON schema or a regular expression.
        bytes_of: Tells where an answer that is cut ends inside a character.

    Raises:
        ConfigError: Not even one KV page fits into the memory.
    """

    def __init__(
        self,
        model: DeepseekVL,
        config: EngineConfig,
        *,
        decode: DecodeIds,
        eos_token_ids: Seq[int],
        image_config: ImageConfig,
        grammars: Grammars | None = None,
        bytes_of: BytesOf | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        is_cuda = self.device.type == "cuda"
        num_lanes = config.num_sequences(has_gpu=self.device.type != "cpu")
        features = ImageFeatures(model, image_config)
        kv = allocate_pages(config, model, num_sequences=num_lanes)
        self._vocab_size = model.config.text.vocab_size
        self._decode = decode
        self._bytes_of = bytes_of
        self._factory = SequenceFactory(
            model.config,
            image_config,
            decode=decode,
            eos_token_ids=eos_token_ids,
            grammars=grammars,
            shared_page_size=kv.page_size if config.prefix_sharing else None,
        )
        self._pool = PagePool(num_pages=kv.k.shape[1] - 1, page_size=kv.page_size)
        self._scheduler = Scheduler(
            self._pool,
            max_num_sequences=num_lanes,
            max_step_tokens=config.max_step_tokens,
            rows_per_tile=_ROWS_PER_TILE if is_cuda else 1,
        )
        self._runner = Runner(
            model, kv=kv, num_lanes=num_lanes, features=features, use_graphs=config.cuda_graphs
        )
        self._images_ahead = features.images_per_pass
        self._launched: Launched | None = None  # the step whose tokens are not read yet
        self._sequences: dict[str, Sequence] = {}
        self._completions: list[Completion] = []
        self._stats = EngineStats(num_lanes=num_lanes)

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
            self._completions.append(make_refusal(request, fault))

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
        self._stats.seconds["host"] += time.perf_counter() - begun_s

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
        self._stats.counts["step_downs"] += 1
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
        """Return what `EngineStats` counts, and how it stands now."""
        return {
            **self._stats.as_dict(),
            "preemptions": float(self._scheduler.num_preemptions),
            "reused_tokens": float(self._scheduler.num_reused_tokens),
            "sequences_running": float(self._scheduler.num_running),
            "sequences_waiting": float(self._scheduler.num_waiting),
            "kv_pages_used": float(self._scheduler.num_pages_used),
            "kv_pages_total": float(self._pool.num_pages),
        }

    def read_token_ids(self, launched: Launched) -> Seq[int]:
        """Wait for a step's tokens: one for each of its rows."""
        return launched.token_ids.read()

    def _queue(self, request: Request, submitted_s: float) -> RowFailure | None:
        hash(request.request_id)  # or it would be in the queue before it is found out
        try:
            sequence = self._factory.make(request, submitted_s=submitted_s)
            if isinstance(sequence, RowFailure):
                return sequence
            self._scheduler.add(sequence)
        except GrammarError as error:
            return RowFailure(code=error.code, message=str(error))
        except CapacityError as error:
            return RowFailure(code="capacity", message=str(error))
        self._sequences[request.request_id] = sequence
        return None

    def _allowed(self, forwarded: Forwarded) -> NDArray[np.int32] | None:
        """Return the tokens that grammars allow in each row, None where there is no grammar."""
        rows = forwarded.rows
        if all(chunk.sequence.matcher is None for chunk in rows):
            return None
        width = -(-self._vocab_size // 32)
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
        ids = self.read_token_ids(launched)
        logprobs = launched.logprobs.read() if launched.logprobs else [None] * len(ids)
        self._stats.add_step(launched)
        if isinstance(step, Decode) and step.has_drafts:
            self._take_verified(step, ids, logprobs)
            return
        for chunk, token_id, logprob in zip(rows, ids, logprobs, strict=True):
            if not chunk.sequence.is_finished:
                self._accept(chunk.sequence, token_id, logprob)

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
                    self._stats.counts.update(
                        drafted_tokens=num_drafted, accepted_tokens=num_accepted
                    )
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
            self._accept(sequence, token_id, logprob)
            is_foreseen = number < len(chunk.draft_ids) and chunk.draft_ids[number] == token_id
            if sequence.is_finished or not is_foreseen:
                return number + int(is_foreseen)
        return len(chunk.draft_ids)

    def _accept(self, sequence: Sequence, token_id: int, logprob: float | None) -> None:
        if sequence.first_token_s is None:
            sequence.first_token_s = time.monotonic()
        self._stats.counts["new_tokens"] += 1
        wanted = logprob if sequence.request.sampling.logprobs else None
        reason = sequence.accept(token_id, wanted)
        if reason is not None:
            self._finish(sequence, reason)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.is_finished = True
        self._scheduler.finish(sequence, is_whole=reason != "cancelled")
        self._runner.release(sequence)
        del self._sequences[sequence.request.request_id]
        self._completions.append(make_completion(sequence, reason, self._decode, self._bytes_of))
