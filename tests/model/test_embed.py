"""Image features among token embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from tests.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> DeepseekVL:
    """Any model: the smallest."""
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, is_hybrid=False)
    return load_model(directory, dtype=torch.float32, device="cpu")


def test_features_replace_image_tokens_in_order(model: DeepseekVL) -> None:
    """The first feature goes to the first image token, whatever lies between."""
    ids = torch.tensor([5, 2, 2, 6, 7, 2], dtype=torch.int32)
    features = torch.arange(3 * 64, dtype=torch.float32).view(3, 64)
    hidden = model.embed(ids, features)
    assert torch.equal(hidden[[1, 2, 5]], features)
    text = [0, 3, 4]
    assert torch.equal(hidden[text], model.text.embedding.weight[ids.long()[text]])


def test_an_image_token_without_features_is_a_token(model: DeepseekVL) -> None:
    """A model may decode the image token; transformers then embeds it like any other."""
    assert torch.equal(model.embed(torch.tensor([2]), None), model.text.embedding.weight[2:3])


@pytest.mark.parametrize("num_features", [0, 1, 3])
def test_counts_must_agree(model: DeepseekVL, num_features: int) -> None:
    """The original code shows one image twice instead; nobody would notice."""
    with pytest.raises(PromptError, match=f"2 image tokens, but its images give {num_features}"):
        model.embed(torch.tensor([2, 5, 2]), torch.zeros(num_features, 64))
