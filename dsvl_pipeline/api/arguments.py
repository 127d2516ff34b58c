"""What ``forward`` of the public models takes.

Letters: ``B`` prompts, ``T`` tokens of each, ``K`` those of earlier calls as well, ``N`` images of
all prompts, ``S`` edge of a picture in pixels, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor

from dsvl_pipeline.api.cache import DynamicCache


class ForwardOptions(TypedDict, total=False):
    """What ``forward`` takes by name alone.

    Attributes:
        output_hidden_states: Whether to return hidden states; by default as the config says.
        output_attentions: Whether to return probabilities; by default as the config says.
        return_dict: Whether to return an output rather than a tuple; by default as the config says.
        num_items_in_batch: Divides the sum of the loss; by default the loss is the mean.
        ignore_index: The label of tokens that the loss leaves out: -100.
        shift_labels: Labels that are shifted already.
        cache_position: Accepted and not needed: the cache knows.
    """

    output_hidden_states: bool | None
    output_attentions: bool | None
    return_dict: bool | None
    num_items_in_batch: Tensor | int | None
    ignore_index: int
    shift_labels: Tensor | None
    cache_position: Tensor | None


@dataclass(slots=True, kw_only=True, eq=False)
class ForwardArguments:
    """What ``forward`` takes.

    Attributes:
        input_ids: ``int[B, T]``.
        pixel_values: ``[N, 3, S, S]``, the pictures of all prompts in order.
        high_res_pixel_values: The same for the other tower, if there is one.
        attention_mask: ``[B, K]``, 0 at padding; or ``[B, 1, T, K]``, which is taken as it is.
        position_ids: ``int[B, T]``; by default counted from the cache's end.
        past_key_values: Keys and values of earlier calls.
        inputs_embeds: ``[B, T, D]``, instead of ids.
        use_cache: Whether to return keys and values; by default as the config says.
        mm_encoder_outputs: ``{"image": ...}``: what `get_image_features` returned before, instead
            of pictures.
        labels: ``int[B, T]``: the ids that are to be learnt, -100 where none is.
        logits_to_keep: How many of the last tokens to score (0 is all), or which.
    """

    input_ids: Tensor | None
    pixel_values: Tensor | None
    high_res_pixel_values: Tensor | None = None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    past_key_values: DynamicCache | None
    inputs_embeds: Tensor | None
    use_cache: bool | None
    mm_encoder_outputs: dict[str, Any] | None
    labels: Tensor | None = None
    logits_to_keep: int | Tensor = 0
    output_hidden_states: bool | None = None
    output_attentions: bool | None = None
    return_dict: bool | None = None
    num_items_in_batch: Tensor | int | None = None
    ignore_index: int = -100
    shift_labels: Tensor | None = None
    cache_position: Tensor | None = None
