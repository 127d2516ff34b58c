"""Requests to sequences: what is checked, and what must be known of each while it runs."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dsvl_pipeline.engine.request_check import find_fault
from dsvl_pipeline.engine.schedule.drafts import Draft
from dsvl_pipeline.engine.schedule.prefix import page_keys, text_before_images
from dsvl_pipeline.engine.schedule.repetition import RepetitionGuard
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.stop_text import DecodeIds, StopText
from dsvl_pipeline.engine.schedule.structured import Grammars, Matcher
from dsvl_pipeline.errors import GrammarError
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.image_config import ImageConfig
from dsvl_pipeline.records import Request, RowFailure


class SequenceFactory:
    """Make sequences of requests, numbered in the order of arrival."""

    def __init__(
        self,
        model: ModelConfig,
        images: ImageConfig,
        *,
        decode: DecodeIds,
        eos_token_ids: Seq[int],
        grammars: Grammars | None,
        shared_page_size: int | None,
    ) -> None:
        """Start with number 1.

        Args:
            model: What requests must fit.
            images: What their pictures must fit.
            decode: See `stop_text.DecodeIds`.
            eos_token_ids: Any of them ends a completion.
            grammars: For requests with a JSON schema or a regular expression.
            shared_page_size: Tokens in a page that prompts may share; None where they share none.
        """
        self._model = model
        self._images = images
        self._decode = decode
        self._eos_token_ids = frozenset(eos_token_ids)
        self._grammars = grammars
        self._shared_page_size = shared_page_size
        self._num_made = 0

    def make(self, request: Request, *, submitted_s: float) -> Sequence | RowFailure:
        """Return a sequence, or why the model cannot run the request.

        Args:
            request: Of any content.
            submitted_s: On the monotonic clock.

        Raises:
            GrammarError: Its JSON schema or regular expression cannot be followed.
        """
        fault = find_fault(request, self._model, self._images)
        if fault is not None:
            return fault
        sampling = request.sampling
        num_wanted = len(request.prompt_ids) + sampling.max_new_tokens
        stop_ids = frozenset(sampling.stop_token_ids)
        image_token_id, page_size = self._model.image_token_id, self._shared_page_size
        self._num_made += 1
        return Sequence(
            request=request,
            number=self._num_made,
            max_tokens=min(num_wanted, self._model.text.max_positions),
            stop_ids=stop_ids if sampling.ignore_eos else stop_ids | self._eos_token_ids,
            stop_text=StopText(sampling.stop, self._decode) if sampling.stop else None,
            guard=RepetitionGuard(sampling.max_loop_tokens) if sampling.max_loop_tokens else None,
            matcher=self._matcher(request),
            draft=_draft(request),
            page_keys=page_keys(request, image_token_id, page_size) if page_size else (),
            shared_text=text_before_images(request, image_token_id) if page_size else 0,
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


def _draft(request: Request) -> Draft | None:
    """A draft's tokens are verified side by side, which a penalty or a grammar forbids."""
    if request.draft_ids is None or request.sampling.repetition_penalty != 1:
        return None
    is_free = request.schema is None and request.regex is None
    return Draft(request.draft_ids) if is_free else None
