"""The engine's state of one request. Torch-free.

Letters: ``N`` new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.engine.stop_text import StopText
from dsvl_pipeline.records import FinishReason, Request


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A request on its way to a completion.

    Attributes:
        request: What was asked.
        number: Place in the order of arrival; the youngest has the highest.
        max_tokens: Prompt and completion end here, by ``max_new_tokens`` or the model's context.
        stop_ids: Ids that end it.
        stop_text: Watches for stop texts; None without any.
        token_ids: ``int32[max_tokens]`` prompt and completion; valid up to ``num_tokens``.
        num_tokens: Tokens known so far.
        num_computed: Tokens whose keys and values are in the pages, the step that was
            scheduled last included.
        prefill_end: Tokens that are computed by prefill; the rest by decode, one at a time.
        page_table: KV pages, in position order.
        lane: Index into the runner's state on the device while running, else None.
        logprobs: Of the completion so far, where asked for.
        submitted_s: On the monotonic clock, as all times here.
        first_token_s: When its first token was read.
    """

    request: Request
    number: int
    max_tokens: int
    stop_ids: frozenset[int]
    stop_text: StopText | None
    submitted_s: float
    token_ids: NDArray[np.int32] = field(init=False)
    num_tokens: int = field(init=False)
    num_computed: int = 0
    prefill_end: int = 0
    page_table: list[int] = field(default_factory=list)
    lane: int | None = None
    logprobs: list[float] = field(default_factory=list)
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        prompt_ids = self.request.prompt_ids
        self.num_tokens = len(prompt_ids)
        self.token_ids = np.empty(max(self.max_tokens, self.num_tokens), dtype=np.int32)
        self.token_ids[: self.num_tokens] = prompt_ids

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def completion_ids(self) -> NDArray[np.int32]:
        """``int32[N]``, a view."""
        return self.token_ids[self.num_prompt_tokens : self.num_tokens]

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed < self.prefill_end

    def accept(self, token_id: int, logprob: float | None) -> FinishReason | None:
        """Append a produced token; return why the sequence ends with it, or None."""
        self.token_ids[self.num_tokens] = token_id
        self.num_tokens += 1
        if logprob is not None:
            self.logprobs.append(logprob)
        if token_id in self.stop_ids:
            return "stop"
        if self.stop_text is not None and self.stop_text.push(token_id):
            return "stop"
        return "length" if self.num_tokens >= self.max_tokens else None
