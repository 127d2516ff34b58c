"""Image features are the image's own: whom it is encoded with must not show in an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.records import ImageInput, Request
from tests.checkpoints import (
    HIGH_RES_PX,
    IMAGE_TOKEN_ID,
    LOW_RES_PX,
    NUM_IMAGE_TOKENS,
    write_checkpoint,
)


def asking(seed: int, *, is_hybrid: bool) -> Sequence:
    """A sequence with one random picture of its own."""
    source = np.random.default_rng(seed)
    low_res, high_res = (
        source.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for side in (LOW_RES_PX, HIGH_RES_PX)
    )
    image = ImageInput(
        digest=bytes([seed]), low_res=low_res, high_res=high_res if is_hybrid else None
    )
    prompt_ids = np.full(NUM_IMAGE_TOKENS, IMAGE_TOKEN_ID, dtype=np.int32)
    request = Request(request_id=str(seed), prompt_ids=prompt_ids, images=(image,))
    return Sequence(
        request=request, number=seed, max_tokens=50, stop_ids=frozenset(), submitted_s=0.0
    )


@torch.no_grad()
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "single"])
def test_an_image_has_the_same_features_whatever_company_it_keeps(
    tmp_path: Path, is_hybrid: bool, num_threads: int
) -> None:
    """To the bit on a CPU, with any number of threads: the same image, the same answer."""
    write_checkpoint(tmp_path, is_hybrid=is_hybrid)
    model: DeepseekVL = load_model(tmp_path, dtype=torch.float32, device="cpu")
    sequences = [asking(seed, is_hybrid=is_hybrid) for seed in range(5)]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        together = ImageFeatures(model, read_image_config(tmp_path))
        together.hold(sequences)
        for sequence in sequences:
            alone = ImageFeatures(model, read_image_config(tmp_path))
            alone.hold([sequence])
            (found,) = together.rows(sequence, 0, NUM_IMAGE_TOKENS)
            (expected,) = alone.rows(sequence, 0, NUM_IMAGE_TOKENS)
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)
