"""Eight-bit weights on a GPU: the same as a CPU makes, and near the model without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.model.checkpoint import Quantization, load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.values import KVPages, PackedInputs
from tests.checkpoints import VOCAB_SIZE, write_checkpoint
from tests.model.test_last_rows import last_rows, prefill

pytestmark = pytest.mark.gpu


def load(directory: Path, device: str, quantization: Quantization = "fp8") -> DeepseekVL:
    """Load in bfloat16."""
    return load_model(directory, dtype=torch.bfloat16, device=device, quantization=quantization)


def logits(model: DeepseekVL) -> Tensor:
    """Of three sequences of text, in float32 on the CPU."""
    device = model.lm_head.weight.device
    ids = torch.randint(3, VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0, 10, 33, 60], dtype=torch.int32, device=device)
    scores = model.logits(model.forward_dense(model.embed(ids.to(device), None), starts))
    return scores.float().cpu()


@torch.inference_mode()
def test_weights_are_rounded_as_on_a_cpu(tmp_path: Path) -> None:
    """To the bit: threads load and quantise there, and a kernel does what torch does here."""
    write_checkpoint(tmp_path)
    wanted, found = load(tmp_path, "cpu").state_dict(), load(tmp_path, "cuda").state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].cpu().float(), tensor.float()), name


@torch.inference_mode()
def test_a_quantized_model_is_near_the_one_it_was_made_from(tmp_path: Path) -> None:
    """As on a CPU (see tests/model/test_quantized.py), and bfloat16 adds little to it."""
    write_checkpoint(tmp_path)
    wanted = logits(load(tmp_path, "cpu", "none"))
    found = logits(load(tmp_path, "cuda"))
    error = float((found - wanted).norm() / wanted.norm())
    print(f"fp8 on a GPU against bf16 on a CPU: {error:.3f}")
    assert 0.02 < error < 0.15


@torch.inference_mode()
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_the_last_layer_for_some_rows(tmp_path: Path, quantization: Quantization) -> None:
    """One row per sequence, or a few, against all: 3 % covers bfloat16 in another order."""
    write_checkpoint(tmp_path, is_hybrid=False)
    model = load(tmp_path, "cuda", quantization)
    text = model.config.text
    ids = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.Generator().manual_seed(0)).cuda()

    def moved(packed: PackedInputs) -> PackedInputs:
        names = ("positions", "slots", "query_starts", "page_table", "kv_lens")
        return replace(packed, **{name: getattr(packed, name).cuda() for name in names})

    def pages() -> KVPages:
        # 16 tokens a page: the least that kernels take; `prefill` names slots of pages of 8
        return KVPages.allocate(
            text.num_layers, text.num_kv_heads, text.head_dim, 3, 16, torch.bfloat16, "cuda"
        )

    packed = replace(prefill(), page_table=torch.arange(3, dtype=torch.int32)[:, None])
    hidden = model.embed(ids, None)
    every = model(hidden, moved(packed), pages()).float()
    for rows, counts in (([6, 7, 19], [1, 1, 1]), ([5, 6, 7, 17, 18, 19], [2, 1, 3])):
        last = last_rows(packed, rows, counts)
        last = replace(last, rows=last.rows.cuda(), packed=moved(last.packed))
        some = model(hidden, moved(packed), pages(), last=last).float()
        assert some.shape == (len(rows), text.hidden_size)
        assert float((some - every[rows]).norm() / every[rows].norm()) < 0.03
