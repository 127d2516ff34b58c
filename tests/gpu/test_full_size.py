"""The 7B hybrid in its full shape on a real GPU: loads, agrees with transformers, generates.

Random weights: no checkpoint is downloaded. About 60 GB of GPU memory and 15 GB of disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.shapes import FULL, IMAGE_TOKEN_ID
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from dsvl_pipeline.records import EngineConfig, ImageInput, Request, SamplingParams
from tools.demo_checkpoint import files

pytestmark = pytest.mark.gpu

NUM_IMAGE_TOKENS = 576
NUM_PROMPTS = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 7B's shape with random bfloat16 weights, in shards, as transformers writes it."""
    from transformers import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration

    folder = tmp_path_factory.mktemp("hybrid-7b")
    settings = {name: value for name, value in FULL.items() if name != "model_type"}
    config = DeepseekVLHybridConfig(**settings)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = DeepseekVLHybridForConditionalGeneration(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "alpha" in name:  # zero at initialisation
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder, max_shard_size="4GB")
    processor = files.processor()
    processor.image_processor.size = {"height": 384, "width": 384}
    processor.image_processor.high_res_size = {"height": 1024, "width": 1024}
    processor.num_image_tokens = NUM_IMAGE_TOKENS
    processor.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module", autouse=True)
def _exact_float32() -> Iterator[None]:
    """No TensorFloat-32: the reference must be float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.cuda.empty_cache()


def load_reference(checkpoint: Path, dtype: torch.dtype) -> Any:
    """Transformers' model of the same checkpoint, on the GPU."""
    from transformers import DeepseekVLHybridForConditionalGeneration

    load = DeepseekVLHybridForConditionalGeneration.from_pretrained
    return load(checkpoint, dtype=dtype, device_map="cuda").eval()


def pictures(count: int) -> list[ImageInput]:
    """Seeded noise, as the processor hands it over."""
    random = np.random.default_rng(0)
    return [
        ImageInput(
            digest=bytes([number]),
            high_res=random.integers(0, 256, (1024, 1024, 3), np.uint8),
            low_res=random.integers(0, 256, (384, 384, 3), np.uint8),
        )
        for number in range(count)
    ]


def prompt(num_images: int, num_words: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Image tokens, then seeded words."""
    words = np.random.default_rng(seed).integers(3, 102400, num_words)
    parts = [np.full(NUM_IMAGE_TOKENS * num_images, IMAGE_TOKEN_ID), words]
    return np.concatenate(parts).astype(np.int32)


def normalised(checkpoint: Path, images: list[ImageInput], dtype: torch.dtype) -> tuple[Any, Any]:
    """Pixel values for both towers, made without the engine."""
    config = read_image_config(checkpoint)

    def one(tower: Any, pixels: Any) -> Tensor:
        table = tower.table
        planes = [table[channel][pixels[:, :, channel]] for channel in range(3)]
        return torch.from_numpy(np.stack(planes))

    low = torch.stack([one(config.low_res, image.low_res) for image in images])
    high = torch.stack([one(config.high_res, image.high_res) for image in images])
    return low.to("cuda", dtype), high.to("cuda", dtype)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over norm of the reference, in float64."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def paged(model: DeepseekVL, hidden: Tensor) -> Tensor:
    """Run one whole prompt as the engine does, over pages of 64 tokens in no order."""
    num_tokens, text, page_size = len(hidden), model.config.text, 64
    num_pages = -(-num_tokens // page_size)
    shape = (text.num_layers, text.num_kv_heads, text.head_dim)
    kv = KVPages.allocate(*shape, num_pages, page_size, hidden.dtype, hidden.device)
    pages = torch.arange(num_pages - 1, -1, -1, device=hidden.device)
    positions = torch.arange(num_tokens, device=hidden.device)
    packed = PackedInputs(
        positions=positions,
        slots=pages[positions // page_size] * page_size + positions % page_size,
        query_starts=torch.tensor([0, num_tokens], dtype=torch.int32, device=hidden.device),
        page_table=pages[None].int(),
        kv_lens=torch.tensor([num_tokens], dtype=torch.int32, device=hidden.device),
        max_query_len=num_tokens,
        max_kv_len=num_tokens,
    )
    output: Tensor = model.forward(hidden, packed, kv)
    return output


@torch.inference_mode()
def test_features_and_logits_agree_with_transformers(checkpoint: Path) -> None:
    """In float32 to rounding, and in bfloat16 with no larger error than transformers' own.

    Over several prompts: between one draw of rounding errors and another lie some per cent.
    """
    images = pictures(2 * NUM_PROMPTS)
    pairs = [images[2 * number : 2 * number + 2] for number in range(NUM_PROMPTS)]
    prompts = [
        torch.from_numpy(prompt(2, 40 + 20 * number, seed=number)).long().cuda()
        for number in range(NUM_PROMPTS)
    ]
    found: dict[tuple[str, torch.dtype], list[tuple[Any, ...]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        pixels = [normalised(checkpoint, pair, dtype) for pair in pairs]
        theirs = load_reference(checkpoint, dtype)
        outputs = []
        for ids, (low, high) in zip(prompts, pixels, strict=True):
            features = theirs.model.get_image_features(low, high).pooler_output
            inputs = {"pixel_values": low, "high_res_pixel_values": high}
            logits = theirs(input_ids=ids[None], **inputs).logits[0]
            outputs.append((features, logits, logits))
        found["theirs", dtype] = outputs
        del theirs
        torch.cuda.empty_cache()
        ours = load_model(checkpoint, dtype=dtype, device="cuda")
        outputs = []
        for ids, (low, high) in zip(prompts, pixels, strict=True):
            features = ours.encode_images(low, high)
            hidden = ours.embed(ids, features.flatten(0, 1))
            starts = torch.tensor([0, len(ids)], dtype=torch.int32, device="cuda")
            dense = ours.logits(ours.forward_dense(hidden, starts))
            outputs.append((features, dense, ours.logits(paged(ours, hidden))))
        found["ours", dtype] = outputs
        del ours
        torch.cuda.empty_cache()
    wanted = found["theirs", torch.float32]
    for index, what in enumerate(("features", "logits", "logits over KV pages")):
        exact, ours_error, theirs_error = (
            [
                relative_error(one[index], right[index])
                for one, right in zip(each, wanted, strict=True)
            ]
            for each in (
                found["ours", torch.float32],
                found["ours", torch.bfloat16],
                found["theirs", torch.bfloat16],
            )
        )
        ratio = np.mean(ours_error) / np.mean(theirs_error)
        print(
            f"{what}: float32 {max(exact):.2e}; bfloat16 ours {np.mean(ours_error):.3e}, "
            f"transformers {np.mean(theirs_error):.3e}, ratio {ratio:.4f}, by prompt "
            + " ".join(f"{a / b:.3f}" for a, b in zip(ours_error, theirs_error, strict=True))
        )
        assert max(exact) < 1e-4
        assert ratio <= 1.01  # the mean of so many draws is known to about half a per cent


def test_float32_greedy_ids_equal_those_of_transformers(checkpoint: Path) -> None:
    """Prompts of unequal length with 0, 1 and 2 images, one at a time there, together here."""
    images = pictures(2)
    cases = [(0, 30), (1, 12), (2, 50)]
    theirs = load_reference(checkpoint, torch.float32)
    wanted = []
    for num_images, num_words in cases:
        ids = torch.from_numpy(prompt(num_images, num_words)).long().cuda()[None]
        pixels: dict[str, Any] = {}
        if num_images:
            low, high = normalised(checkpoint, images[:num_images], torch.float32)
            pixels = {"pixel_values": low, "high_res_pixel_values": high}
        output = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **pixels,
            max_new_tokens=24,
            do_sample=False,
        )
        wanted.append(output[0, ids.shape[1] :].tolist())
    del theirs
    torch.cuda.empty_cache()
    engine = ModelEngine.from_checkpoint(
        checkpoint, EngineConfig(kv_cache_gib=8), dtype="float32", device="cuda"
    )
    found = engine.generate(
        [
            Request(
                request_id=str(number),
                prompt_ids=prompt(num_images, num_words),
                images=tuple(images[:num_images]),
                sampling=SamplingParams(max_new_tokens=24),
            )
            for number, (num_images, num_words) in enumerate(cases)
        ]
    )
    engine.close()
    assert [completion.completion_ids.tolist() for completion in found] == wanted


def test_many_requests_in_bfloat16_all_finish(checkpoint: Path) -> None:
    """96 requests over 8 pictures in little KV memory: each waits for its turn and is answered."""
    images = pictures(8)
    engine = ModelEngine.from_checkpoint(
        checkpoint, EngineConfig(kv_cache_gib=12), dtype="bfloat16", device="cuda"
    )
    requests = [
        Request(
            request_id=str(number),
            prompt_ids=prompt(1, 20 + number % 30, seed=number),
            images=(images[number % 8],),
            sampling=SamplingParams(max_new_tokens=112, ignore_eos=True),
        )
        for number in range(96)
    ]
    found = engine.generate(requests)
    stats = engine.stats()
    engine.close()
    print({name: round(value, 2) for name, value in stats.items()})
    assert [one.request_id for one in found] == [one.request_id for one in requests]
    assert {(len(one.completion_ids), one.finish_reason) for one in found} == {(112, "length")}
    assert stats["preemptions"] == 0, "their lengths are known"
    assert stats["images_encoded"] >= 8
