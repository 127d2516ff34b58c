"""One forward after the other, with a cache between them.

Letters: ``B`` prompts, ``R`` rows (of each prompt one, or its beams), ``T`` tokens so far, ``V``
vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What an answer begins with.

    Attributes:
        input_ids: ``int64[B, T]``; ``T`` is 0 where only embeddings are given.
        attention_mask: ``[B, tokens]``, of ids or embeddings, 0 at padding.
        position_ids: ``[B, tokens]``; None counts what is not masked.
        inputs_embeds: ``[B, tokens, D]``, in the place of ids.
        past_key_values: Of the first tokens, which are then not run again.
        others: What else the first forward gets: pictures.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    past_key_values: Any
    others: Mapping[str, Any]

    @property
    def width(self) -> int:
        """Tokens of the padded prompts."""
        embeds = self.inputs_embeds
        return self.input_ids.shape[1] if embeds is None else embeds.shape[1]


class Steps:
    """Scores of the next token, again and again.

    Attributes:
        cache: Keys and values so far; None without one.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        *,
        rows_per_prompt: int,
        wanted: Mapping[str, Any],
        use_cache: bool = True,
    ) -> None:
        self.cache: Any = prompts.past_key_values
        self._model = model
        self._prompts = prompts
        self._repeats = rows_per_prompt
        self._options = {"return_dict": True, "use_cache": use_cache, "logits_to_keep": 1, **wanted}
        self._mask = prompts.attention_mask
        counted = (self._mask.long().cumsum(1) - 1).clamp(min=0)
        self._positions = counted if prompts.position_ids is None else prompts.position_ids
        self._has_begun = False

    def __call__(self, ids: Tensor) -> Any:
        """Run what is new of ``[R, T]`` and return the model's output, ``logits [R, 1, V]``."""
        if not self._has_begun:
            return self._begin()
        new = self._mask.new_ones((len(self._mask), 1))
        self._mask = torch.cat([self._mask, new], 1)
        self._positions = torch.cat([self._positions, self._positions[:, -1:] + 1], 1)
        if self.cache is None:
            return self._run_whole(ids)
        return self._run(
            input_ids=ids[:, -1:], position_ids=self._positions[:, -1:], past_key_values=self.cache
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, ``int64[R]``: beams that took another's place."""
        if self.cache is not None:
            self.cache.reorder_cache(rows)

    def _begin(self) -> Any:
        """Run the prompts once, and repeat what came of them for every row of theirs."""
        self._has_begun = True
        prompts, first = self._prompts, 0
        if self.cache is not None and self._options["use_cache"]:
            first = self.cache.get_seq_length()
        inputs: dict[str, Any] = {"input_ids": prompts.input_ids[:, first:]}
        if prompts.inputs_embeds is not None:
            inputs = {"inputs_embeds": prompts.inputs_embeds[:, first:]}
        if self._options["use_cache"]:
            inputs["past_key_values"] = self.cache
        positions = self._positions[:, first:]
        output = self._run(**inputs, **prompts.others, position_ids=positions)
        if self._repeats == 1:
            return output
        if self.cache is not None:
            self.cache.batch_repeat_interleave(self._repeats)
        self._mask = self._mask.repeat_interleave(self._repeats, 0)
        self._positions = self._positions.repeat_interleave(self._repeats, 0)
        return _repeat(output, self._repeats)

    def _run_whole(self, ids: Tensor) -> Any:
        """Without a cache: everything again."""
        prompts, n = self._prompts, self._repeats
        inputs: dict[str, Any] = {"input_ids": ids}
        if prompts.inputs_embeds is not None:
            new = ids[:, prompts.input_ids.shape[1] :]
            embeds = prompts.inputs_embeds.repeat_interleave(n, 0)
            more = self._model.get_input_embeddings()(new).to(embeds.dtype)
            inputs = {"inputs_embeds": torch.cat([embeds, more], 1)}
        return self._run(**inputs, **self._pictures_of_rows(), position_ids=self._positions)

    def _pictures_of_rows(self) -> Mapping[str, Any]:
        """Repeat the pictures of each prompt as a whole for every row of it."""
        pictures = self._prompts.others
        if self._repeats == 1 or not pictures:
            return pictures
        config = self._model.network.config
        is_image = self._prompts.input_ids == config.image_token_id
        counts = (is_image.sum(1) // config.num_image_tokens).tolist()
        numbers = iter(range(sum(counts)))
        of_prompts = [[next(numbers) for _ in range(count)] for count in counts]
        rows = [number for some in of_prompts for number in some * self._repeats]
        return {name: pixels[rows] for name, pixels in pictures.items()}

    def _run(self, **inputs: Any) -> Any:
        output = self._model(**inputs, attention_mask=self._mask, **self._options)
        self.cache = (
            getattr(output, "past_key_values", None) if self._options["use_cache"] else None
        )
        return output


def _repeat(output: Any, times: int) -> Any:
    """Repeat the rows of every tensor of an output, in place; the cache is repeated by itself."""
    for name, value in output.items():
        if isinstance(value, Tensor):
            output[name] = value.repeat_interleave(times, 0)
        elif isinstance(value, tuple):
            output[name] = tuple(one.repeat_interleave(times, 0) for one in value)
    return output
