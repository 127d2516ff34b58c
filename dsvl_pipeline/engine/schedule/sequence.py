"""The engine's state of one request. Torch-free.

Letters: ``N`` new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.engine.schedule.stop_text import StopText
from dsvl_pipeline.records import FinishReason, Request

if TYPE_CHECKING:
    from dsvl_pipeline.engine.schedule.drafts import Draft
    from dsvl_pipeline.engine.schedule.repetition import RepetitionGuard
    from dsvl_pipeline.engine.schedule.structured import Matcher

Priority = tuple[int, int, int]
"""Wave, place within it, number; see `queue`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A request on its way to a completion.

    Attributes:
        request: What was asked.
        number: Place in the order of arrival; the youngest has the highest.
        max_tokens: Prompt and completion end here, by ``max_new_tokens`` or the model's context.
        stop_ids: Ids that end it.
        stop_text: Watches for stop texts; None without any.
        guard: Watches for loops; None where the request does without.
        matcher: Says which tokens its grammar allows; None without one.
        draft: What it will probably say; None without a draft.
        page_keys: Of the prompt's full pages, see `prefix.page_keys`.
        shared_text: Tokens before the first image; 0 without images.
        token_ids: ``int32[max_tokens]`` prompt and completion; valid up to ``num_tokens``.
        num_tokens: Tokens known so far.
        num_planned: The same once all steps given to the device are read.
        num_computed: Tokens whose keys and values are in the pages, the step that was
            scheduled last included.
        num_reused: Tokens at the beginning that others had computed when it was admitted.
        prefill_end: Tokens that are computed by prefill; the rest by decode.
        page_table: KV pages, in position order.
        priority: Place in the queue: what is lower is admitted earlier. The queue's.
        last_step: Number of the step that decoded it last.
        lane: Index into the runner's state on the device while running, else None.
        is_finished: Whether its completion is out; steps still on the device are then ignored.
        logprobs: Of the completion so far, where asked for.
        submitted_s: On the monotonic clock, as all times here.
        first_token_s: When its first token was read.
    """

    request: Request
    number: int
    max_tokens: int
    stop_ids: frozenset[int]
    stop_text: StopText | None = None
    guard: RepetitionGuard | None = None
    matcher: Matcher | None = None
    draft: Draft | None = None
    page_keys: tuple[bytes, ...] = ()
    shared_text: int = 0
    submitted_s: float
    token_ids: NDArray[np.int32] = field(init=False)
    num_tokens: int = field(init=False)
    num_planned: int = field(init=False)
    num_computed: int = 0
    num_reused: int = 0
    prefill_end: int = 0
    page_table: list[int] = field(default_factory=list)
    priority: Priority = (0, 0, 0)
    last_step: int = 0
    lane: int | None = None
    is_finished: bool = False
    logprobs: list[float] = field(default_factory=list)
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        prompt_ids = self.request.prompt_ids
        self.num_tokens = self.num_planned = len(prompt_ids)
        self.token_ids = np.empty(max(self.max_tokens, self.num_tokens), dtype=np.int32)
        self.token_ids[: self.num_tokens] = prompt_ids

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def longest_expected(self) -> int:
        """Of its completion, in tokens: what it is allowed, or its draft's length if less."""
        allowed = self.max_tokens - self.num_prompt_tokens
        if self.draft is None or not self.draft.is_active:
            return allowed
        return min(allowed, len(self.draft))

    @property
    def images(self) -> tuple[bytes, ...]:
        """Digests of its pictures."""
        return tuple(image.digest for image in self.request.images)

    @property
    def completion_ids(self) -> NDArray[np.int32]:
        """``int32[N]``, a view."""
        return self.token_ids[self.num_prompt_tokens : self.num_tokens]

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed < self.prefill_end

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is on the device, so that all of its tokens are known."""
        return self.num_planned == self.num_tokens

    @property
    def has_known_length(self) -> bool:
        """Whether nothing but its length can end it."""
        watchers = (self.stop_text, self.guard, self.matcher)
        return not self.stop_ids and all(watcher is None for watcher in watchers)

    @property
    def has_draft(self) -> bool:
        return self.draft is not None and self.draft.is_active

    def accept(self, token_id: int, logprob: float | None) -> FinishReason | None:
        """Append a produced token; return why the sequence ends with it, or None."""
        self.token_ids[self.num_tokens] = token_id
        self.num_tokens += 1
        if logprob is not None:
            self.logprobs.append(logprob)
        if token_id in self.stop_ids:
            return "stop"
        if self.matcher is not None:
            self.matcher.accept(token_id)
            if self.matcher.is_finished:
                return "stop"
        if self.stop_text is not None and self.stop_text.push(token_id):
            return "stop"
        if self.guard is not None and self.guard.push(token_id):
            return "repetition"
        return "length" if self.num_tokens >= self.max_tokens else None
