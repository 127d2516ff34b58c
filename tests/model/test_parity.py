"""The whole model against transformers, in float32 on the CPU, on random checkpoints.

The tolerance of 1e-5 is float32's rounding over a few layers of values around 1; both sides mostly
run the same CPU kernels and then agree to the bit.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from tests.checkpoints import (
    HIGH_RES_PX,
    IMAGE_TOKEN_ID,
    LOW_RES_PX,
    NUM_IMAGE_TOKENS,
    VOCAB_SIZE,
    Dialect,
    write_checkpoint,
)

CLOSE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=[True, False], ids=["hybrid", "single"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Any, DeepseekVL]:
    """The reference and our model, from one checkpoint."""
    directory = tmp_path_factory.mktemp("checkpoint")
    reference = write_checkpoint(directory, is_hybrid=request.param)
    return reference, load_model(directory, dtype=torch.float32, device="cpu")


def pictures(model: DeepseekVL, count: int, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    """Random normalised pictures for the towers that the model has."""
    generator = torch.Generator().manual_seed(seed)
    low_res = torch.randn(count, 3, LOW_RES_PX, LOW_RES_PX, generator=generator)
    high_res = torch.randn(count, 3, HIGH_RES_PX, HIGH_RES_PX, generator=generator)
    return low_res, high_res if model.config.is_hybrid else None


def reference_arguments(low_res: Tensor, high_res: Tensor | None) -> dict[str, Tensor]:
    """The same pictures under the names of transformers."""
    images = {"pixel_values": low_res}
    return images if high_res is None else {**images, "high_res_pixel_values": high_res}


@torch.no_grad()
def test_image_features_equal_transformers(pair: tuple[Any, DeepseekVL]) -> None:
    """Both towers, SAM's padded windows and both necks, the resize from 8 to 12, the aligner."""
    reference, model = pair
    low_res, high_res = pictures(model, 3)
    expected = reference.model.get_image_features(**reference_arguments(low_res, high_res))
    found = model.encode_images(low_res, high_res)
    assert found.shape == (3, NUM_IMAGE_TOKENS, 64)
    torch.testing.assert_close(found, expected.pooler_output, **CLOSE)


@torch.no_grad()
def test_image_features_do_not_depend_on_the_batch(pair: tuple[Any, DeepseekVL]) -> None:
    """An image's features are its own, whatever is encoded beside it, up to float32's rounding.

    Not to the bit: torch chooses the library that computes a convolution (MKL, oneDNN, its own) by
    processor, threads and number of images, and each sums in its own order. The engine therefore
    encodes one image at a time on a CPU; tests/engine/device/test_features.py holds it to the bit.
    """
    _, model = pair
    low_res, high_res = pictures(model, 5)
    together = model.encode_images(low_res, high_res)
    for i in range(5):
        one = slice(i, i + 1)
        alone = model.encode_images(low_res[one], None if high_res is None else high_res[one])
        torch.testing.assert_close(together[one], alone, **CLOSE)


@torch.no_grad()
def test_logits_equal_transformers(pair: tuple[Any, DeepseekVL]) -> None:
    """Two images between text, through embeddings, layers, norm and a head of its own."""
    reference, model = pair
    low_res, high_res = pictures(model, 2)
    ids = torch.randint(3, VOCAB_SIZE, (50,), generator=torch.Generator().manual_seed(2))
    ids[4 : 4 + NUM_IMAGE_TOKENS] = ids[20 : 20 + NUM_IMAGE_TOKENS] = IMAGE_TOKEN_ID
    images = reference_arguments(low_res, high_res)
    expected = reference(input_ids=ids[None], **images).logits[0]
    features = model.encode_images(low_res, high_res).flatten(0, 1)
    hidden = model.forward_dense(model.embed(ids, features), torch.tensor([0, 50]))
    torch.testing.assert_close(model.logits(hidden), expected, **CLOSE)


@torch.no_grad()
def test_packed_sequences_do_not_see_each_other(pair: tuple[Any, DeepseekVL]) -> None:
    """Packing is an arrangement of memory, not of meaning."""
    reference, model = pair
    ids = torch.randint(3, VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(3))
    starts = [0, 1, 24, 60]
    hidden = model.forward_dense(model.embed(ids, None), torch.tensor(starts, dtype=torch.int32))
    for start, end in pairwise(starts):
        expected = reference(input_ids=ids[None, start:end]).logits[0]
        torch.testing.assert_close(model.logits(hidden[start:end]), expected, **CLOSE)
        # to the bit, because each starts again at position 0
        one = model.embed(ids[start:end], None)
        alone = model.forward_dense(one, torch.tensor([0, end - start]))
        assert torch.equal(hidden[start:end], alone)


@torch.no_grad()
@pytest.mark.parametrize(
    "text",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "head_dim": 24},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rms_norm_eps": 0.1, "num_hidden_layers": 1},
    ],
    ids=["all-heads", "one-kv-head-of-another-width", "rope-theta", "eps"],
)
def test_language_model_shapes_of_the_config_are_followed(
    tmp_path: Path, text: dict[str, Any]
) -> None:
    """Every size that a config can vary reaches the layers."""
    reference = write_checkpoint(tmp_path, is_hybrid=False, text=text)
    model = load_model(tmp_path, dtype=torch.float32, device="cpu")
    ids = torch.arange(3, 43)
    found = model.logits(model.forward_dense(model.embed(ids, None), torch.tensor([0, 40])))
    torch.testing.assert_close(found, reference(input_ids=ids[None]).logits[0], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("dialect", ["early", "current"])
def test_transformers_reads_the_test_checkpoints(
    tmp_path: Path, dialect: Dialect, capfd: pytest.CaptureFixture[str]
) -> None:
    """The helpers write what upstream reads, so a mistake in them cannot pass for parity."""
    from transformers import AutoModelForImageTextToText

    reference = write_checkpoint(tmp_path, dialect=dialect, num_shards=2)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    capfd.readouterr()  # its progress bar
    for name, tensor in reference.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
