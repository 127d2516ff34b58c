"""What an engine refuses before it runs anything. Torch-free.

A request is somebody's row: whatever is wrong with it must become an answer, since an exception
in the middle of a step would take all other rows down with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.image_config import ImageConfig, TowerImageConfig
from dsvl_pipeline.records import ImageInput, Request, RowFailure
from dsvl_pipeline.wording import amount


def find_fault(request: Request, model: ModelConfig, images: ImageConfig) -> RowFailure | None:
    """Return why a request cannot be run by this model, or None when it can."""
    return (
        _prompt_fault(request, model)
        or _draft_fault(request.draft_ids, model)
        or _image_fault(request.images, images)
    )


def _prompt_fault(request: Request, model: ModelConfig) -> RowFailure | None:
    ids = request.prompt_ids
    if not len(ids):
        return RowFailure(
            code="prompt_invalid", message="the prompt has 0 tokens; it needs at least 1"
        )
    if len(ids) >= model.text.max_positions:
        return RowFailure(
            code="prompt_too_long",
            message=f"the prompt has {len(ids)} tokens, but the model's context is "
            f"{model.text.max_positions}, completion included; shorten the text or use fewer "
            "images",
        )
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= model.text.vocab_size:
        return RowFailure(
            code="prompt_invalid",
            message=f"the prompt has token ids from {least} to {most}, but the model's are 0 to "
            f"{model.text.vocab_size - 1}; is the tokenizer from another checkpoint?",
        )
    found = int(np.count_nonzero(ids == model.image_token_id))
    wanted = len(request.images) * model.num_image_tokens
    if found != wanted:
        return RowFailure(
            code="image_token_count",
            message=f"the prompt has {amount(found, 'image token')} but the request lists "
            f"{amount(len(request.images), 'image')} of {model.num_image_tokens} tokens "
            f"each, {wanted} in all; expand one placeholder for each image",
        )
    return None


def _draft_fault(ids: NDArray[np.int32] | None, model: ModelConfig) -> RowFailure | None:
    if ids is None:
        return None
    is_list = ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    if is_list and (not len(ids) or 0 <= ids.min() <= ids.max() < model.text.vocab_size):
        return None
    return RowFailure(
        code="draft_invalid",
        message=f"the draft is {ids.dtype}{list(ids.shape)}; it must be a list of token ids from 0 "
        f"to {model.text.vocab_size - 1}: tokenize it with the checkpoint's own tokenizer, or "
        "leave it out",
    )


def _image_fault(images: tuple[ImageInput, ...], config: ImageConfig) -> RowFailure | None:
    for image in images:
        if type(image.digest) is not bytes:
            return RowFailure(
                code="image_invalid",
                message=f"a picture's digest is {type(image.digest).__name__}; it must be bytes, "
                "equal for equal pictures alone: what is computed for a picture is found by it",
            )
        for name, found, tower in (
            ("low", image.low_res, config.low_res),
            ("high", image.high_res, config.high_res),
        ):
            if tower is not None and not _fits(found, tower):
                shape = None if found is None else f"{found.dtype}{list(found.shape)}"
                side = tower.side_px
                return RowFailure(
                    code="image_invalid",
                    message=f"the {name}-resolution picture is {shape}; the model needs "
                    f"uint8[{side}, {side}, 3] or float32[3, {side}, {side}]; was it made for "
                    "another checkpoint?",
                )
    return None


def _fits(pixels: NDArray[Any] | None, tower: TowerImageConfig) -> bool:
    side = tower.side_px
    if pixels is None:
        return False
    if pixels.dtype == np.uint8:
        return pixels.shape == (side, side, 3)
    return pixels.dtype == np.float32 and pixels.shape == (3, side, side)
