"""What a call gives back beside ids: scores, logits, attentions and hidden states of every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dsvl_pipeline.api.generation.plan import Plan


class Recording:
    """One entry for every new token, of what a plan asks for.

    Attributes:
        scores: Of each step after all changes, ``[R, V]``; None where nobody asks.
    """

    def __init__(self, plan: Plan) -> None:
        config = plan.config
        self.scores = self._start(config.output_scores)
        self._logits = self._start(config.output_logits)
        self._attentions = self._start(config.output_attentions)
        self._hidden_states = self._start(config.output_hidden_states)

    @staticmethod
    def _start(is_wanted: bool) -> tuple[Any, ...] | None:
        return () if is_wanted else None

    def add(self, output: Any, logits: Tensor, scores: Tensor) -> None:
        """Keep one step's."""
        if self.scores is not None:
            self.scores += (scores,)
        if self._logits is not None:
            self._logits += (logits,)
        if self._attentions is not None:
            self._attentions += (output.attentions,)
        if self._hidden_states is not None:
            self._hidden_states += (output.hidden_states,)

    def fields(self) -> dict[str, Any]:
        """Return what an output holds, by name."""
        return {
            "scores": self.scores,
            "logits": self._logits,
            "attentions": self._attentions,
            "hidden_states": self._hidden_states,
        }
