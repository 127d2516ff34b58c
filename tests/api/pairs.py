"""Ours and transformers' on the same random weights, without files."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

import dsvl_pipeline
from tests.api.examples import family_name
from tests.checkpoints import (
    HIGH_RES_PX,
    IMAGE_TOKEN_ID,
    LOW_RES_PX,
    NUM_IMAGE_TOKENS,
    VOCAB_SIZE,
    reference_model,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models with equal weights in eval mode, and a batch of two prompts with a picture each.

    Attributes:
        inputs: The first prompt is padded on the left by 4 tokens.
    """

    ours: Any
    theirs: Any
    inputs: dict[str, torch.Tensor]

    @property
    def is_token(self) -> torch.Tensor:
        """Where the batch has no padding."""
        return self.inputs["attention_mask"].bool()

    @property
    def text_inputs(self) -> dict[str, torch.Tensor]:
        """The same without pictures."""
        return {name: self.inputs[name] for name in ("input_ids", "attention_mask")}


def make_pair(family: str, **text: Any) -> Pair:
    """Make one; ``text`` changes the language model's config."""
    theirs = reference_model(is_hybrid=family == "hybrid", text=text or None).eval()
    ours = make_ours(family, theirs).eval()
    ours.load_state_dict(theirs.state_dict())
    return Pair(ours=ours, theirs=theirs, inputs=make_inputs(family))


def make_ours(family: str, theirs: Any, kind: str = "ForConditionalGeneration") -> Any:
    """Make a model of ours with random weights, of the config of one of theirs."""
    config = getattr(dsvl_pipeline, family_name(family, "Config"))
    own = config.from_dict(copy.deepcopy(theirs.config.to_dict()))
    return getattr(dsvl_pipeline, family_name(family, kind))(own)


def make_inputs(family: str) -> dict[str, torch.Tensor]:
    """Draw two prompts, 24 tokens wide."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, VOCAB_SIZE, (2, 24), generator=generator)
    ids[:, 5 : 5 + NUM_IMAGE_TOKENS] = IMAGE_TOKEN_ID
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(2, 3, LOW_RES_PX, LOW_RES_PX, generator=generator),
    }
    if family == "hybrid":
        shape = (2, 3, HIGH_RES_PX, HIGH_RES_PX)
        inputs["high_res_pixel_values"] = torch.randn(shape, generator=generator)
    return inputs
