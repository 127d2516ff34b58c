"""How prompts of different lengths are cut and padded, by the reference's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.api.inputs import ModelInputs, TensorKind, stack

_ENDLESS = 1 << 30  # what tokenizers say that know no longest prompt is more


class TextOptions(TypedDict, total=False):
    """What a tokenizer takes when it is called.

    Attributes:
        add_special_tokens: Whether the beginning of sequence and the like are added.
        padding: True or ``longest`` pads to the longest prompt, ``max_length`` to that many
            tokens. With tensors, prompts of different lengths are padded in any case.
        truncation: Whether prompts are cut to ``max_length``; by default where ``max_length`` is
            given and ``padding`` is not.
        max_length: By default the tokenizer's ``model_max_length``.
        pad_to_multiple_of: Lengths are padded to multiples of it.
        padding_side: ``left`` or ``right``; by default the tokenizer's.
        truncation_side: Where prompts are cut; by default the tokenizer's.
        return_attention_mask: False leaves the mask out.
        return_special_tokens_mask: Adds a mask of control tokens.
        return_length: Adds the number of tokens of each prompt.
        return_mm_token_type_ids: Adds a mask of image tokens; a processor's only.
        return_text_replacement_offsets: Adds where in a text its pictures lie; a processor's only.
        return_tensors: Stack into tensors or arrays; None gives lists.
        verbose: Accepted and without effect.
    """

    add_special_tokens: bool
    padding: bool | str | None
    truncation: bool | str | None
    max_length: int | None
    pad_to_multiple_of: int | None
    padding_side: Literal["left", "right"] | None
    truncation_side: Literal["left", "right"] | None
    return_attention_mask: bool | None
    return_special_tokens_mask: bool
    return_length: bool
    return_mm_token_type_ids: bool
    return_text_replacement_offsets: bool
    return_tensors: TensorKind | None
    verbose: bool
    # what only tokenizers of transformers do
    stride: int
    is_split_into_words: bool
    return_overflowing_tokens: bool
    return_offsets_mapping: bool
    return_token_type_ids: bool | None


_REFUSED = (
    *("stride", "is_split_into_words", "return_overflowing_tokens", "return_offsets_mapping"),
    "return_token_type_ids",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How long prompts become.

    Attributes:
        most: Tokens that a prompt is cut to; None cuts nothing.
        width: Tokens that it is padded to, where these are more than it has.
        pads_to_longest: Whether it is padded to the longest of them.
        multiple: What lengths are multiples of.
        pads_left: On which side.
        cuts_left: On which side.
    """

    most: int | None
    width: int
    pads_to_longest: bool
    multiple: int
    pads_left: bool
    cuts_left: bool

    def cut(self, row: NDArray[np.int32], *, num_leading: int) -> slice:
        """Return which tokens of a prompt are kept, behind ``num_leading`` that always are."""
        if self.most is None or len(row) <= self.most:
            return slice(num_leading, None)
        return (
            slice(len(row) - self.most + num_leading, None)
            if self.cuts_left
            else slice(num_leading, self.most)
        )

    def pad(self, rows: Sequence[NDArray[Any]], fill: int) -> list[NDArray[np.int64]]:
        """Return rows of the length that is wanted."""
        longest = max(map(len, rows), default=0) if self.pads_to_longest else 0
        padded = []
        for row in rows:
            width = max(longest, self.width, len(row))
            if self.pads_to_longest or self.width:
                width = -(-width // self.multiple) * self.multiple
            spare = width - len(row)
            sides = (spare, 0) if self.pads_left else (0, spare)
            padded.append(np.pad(row.astype(np.int64), sides, constant_values=fill))
        return padded


def layout(options: TextOptions | Mapping[str, Any], tokenizer: Any) -> Layout:
    """Return what options ask for; what they leave open the tokenizer says.

    Raises:
        ValueError: One of them cannot be done, or has a value that it cannot have.
    """
    for name in _REFUSED:
        if options.get(name):
            raise ValueError(f"{name}={options[name]!r} cannot be done here; leave it out")
    padding = getattr(options.get("padding"), "value", options.get("padding"))
    truncation = getattr(options.get("truncation"), "value", options.get("truncation"))
    if padding not in (None, False, True, "longest", "max_length", "do_not_pad"):
        raise ValueError(f"padding is {padding!r}; it must be a bool, 'longest' or 'max_length'")
    if truncation not in (None, False, True, "longest_first", "only_first", "do_not_truncate"):
        raise ValueError(f"truncation is {truncation!r}; it must be a bool or 'longest_first'")
    pads = padding not in (None, False, "do_not_pad")
    most = options.get("max_length")
    cuts = truncation not in (None, False, "do_not_truncate")
    cuts = cuts or (truncation is None and most is not None and not pads)
    if most is None and tokenizer.model_max_length < _ENDLESS:
        most = int(tokenizer.model_max_length)
    sides = [options.get(side) or getattr(tokenizer, side) for side in _SIDES]
    for name, side in zip(_SIDES, sides, strict=True):
        if side not in ("left", "right"):
            raise ValueError(f"{name} is {side!r}; it must be 'left' or 'right'")
    return Layout(
        most=most if cuts else None,
        width=most or 0 if padding == "max_length" else 0,
        pads_to_longest=bool(pads or options.get("return_tensors")),
        multiple=options.get("pad_to_multiple_of") or 1,
        pads_left=sides[0] == "left",
        cuts_left=sides[1] == "left",
    )


_SIDES = ("padding_side", "truncation_side")


def text_inputs(
    rows: Sequence[NDArray[np.int32]],
    options: TextOptions | Mapping[str, Any],
    how: Layout,
    *,
    pad_id: int,
    special_ids: Sequence[int],
) -> ModelInputs:
    """Return prompts as a model's inputs.

    Returns:
        ``input_ids`` and ``attention_mask`` ``int64[B, T]``, and the other masks that are asked
        for.
    """
    made = {"input_ids": how.pad(rows, pad_id)}
    if options.get("return_attention_mask", True) is not False:
        made["attention_mask"] = how.pad([np.ones(len(row)) for row in rows], 0)
    if options.get("return_special_tokens_mask"):
        made["special_tokens_mask"] = how.pad([np.isin(row, special_ids) for row in rows], 1)
    kind = options.get("return_tensors")
    inputs = ModelInputs({name: as_kind(found, kind) for name, found in made.items()})
    if options.get("return_length"):
        inputs["length"] = as_kind([np.array(len(row)) for row in inputs["input_ids"]], kind)
    return inputs


def as_kind(rows: list[NDArray[Any]], kind: TensorKind | None) -> Any:
    """Return rows as a tensor or array, or as lists of numbers."""
    return [row.tolist() for row in rows] if kind is None else stack(rows, kind)
