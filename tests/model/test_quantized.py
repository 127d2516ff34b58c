"""The language model in eight bits: what is rounded, when, and how far off that leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.model import checkpoint
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.ops.quantize import quantize_rows
from tests.checkpoints import VOCAB_SIZE, write_checkpoint


def load(directory: Path, **settings: Any) -> DeepseekVL:
    """Load on the CPU, in float32."""
    return load_model(directory, dtype=torch.float32, device="cpu", **settings)


def logits(model: DeepseekVL) -> Tensor:
    """Of three sequences of text."""
    ids = torch.randint(3, VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0, 10, 33, 60], dtype=torch.int32)
    return model.logits(model.forward_dense(model.embed(ids, None), starts))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over norm of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_layers_projections_are_quantized_and_nothing_else(
    tmp_path: Path, num_shards: int
) -> None:
    """The head picks between close scores, and norms and embeddings are small."""
    write_checkpoint(tmp_path, num_shards=num_shards)
    wide, model = load(tmp_path), load(tmp_path, quantization="fp8")
    quantized = {
        name for name, module in model.named_modules() if getattr(module, "is_quantized", False)
    }
    num_layers = model.config.text.num_layers
    names = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")
    assert quantized == {f"text.layers.{i}.{name}" for i in range(num_layers) for name in names}
    for name, parameter in wide.named_parameters():
        found, module = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
        if name.removesuffix(".weight") not in quantized:
            assert torch.equal(found, parameter)
            continue
        assert isinstance(module, Linear)
        assert module.weight_scale is not None
        assert found.dtype == torch.float8_e4m3fn
        assert not found.requires_grad
        # half a step of the value, or of the row's least
        error = (found.float() * module.weight_scale - parameter).abs()
        assert (
            error <= 1.001 * torch.maximum(parameter.abs() / 16, module.weight_scale * 2**-10)
        ).all()


@torch.no_grad()
def test_a_quantized_model_is_near_the_one_it_was_made_from(tmp_path: Path) -> None:
    """Values and weights are each off by 2.6 %: a uniform error of at most 1 / 16 of the value.

    So a projection is off by 3.7 %, and twelve of them, one after another, by 13 % if their errors
    are independent. A model that was not quantised at all is off by far less than the lower bound.
    """
    write_checkpoint(tmp_path)
    wanted, found = logits(load(tmp_path)), logits(load(tmp_path, quantization="fp8"))
    assert 0.02 < relative_error(found, wanted) < 0.13


@torch.no_grad()
def test_a_quantized_model_equals_one_with_rounded_operands(tmp_path: Path) -> None:
    """The same values, multiplied without scales by a model that knows nothing of eight bits.

    1 %: where the last bit of a float32 differs, a value may now and then round to the next e4m3.
    """
    write_checkpoint(tmp_path)
    model, emulated = load(tmp_path, quantization="fp8"), load(tmp_path)

    def round_operand(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        rows = quantize_rows(args[0])
        return rows.values.float() * rows.scale

    for module in emulated.text.modules():
        if isinstance(module, Linear):
            weight = quantize_rows(module.weight)
            module.weight.copy_(weight.values.float() * weight.scale)
            module.register_forward_pre_hook(round_operand)
    assert relative_error(logits(model), logits(emulated)) < 0.01


@torch.no_grad()
def test_shapes_that_tensor_cores_refuse_stay_as_they_are(tmp_path: Path) -> None:
    """Decided when loading, layer by layer: the rest still gains."""
    write_checkpoint(tmp_path, text={"intermediate_size": 72})
    wide, model = load(tmp_path), load(tmp_path, quantization="fp8")
    layer = model.text.layers[0]
    assert [layer.attention.qkv.is_quantized, layer.attention.out.is_quantized] == [True, True]
    assert [layer.mlp.gate_up.is_quantized, layer.mlp.down.is_quantized] == [False, False]
    assert 0.02 < relative_error(logits(model), logits(wide)) < 0.13


def test_originals_are_dropped_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 7B's would take 12 GB beside the 6 GB that they become."""
    write_checkpoint(tmp_path)
    model, num_wide = [], []
    build, quantize = checkpoint.build_empty, Linear.quantize_

    def watch(linear: Linear) -> None:
        weights = [m.weight for m in model[0].text.layers.modules() if isinstance(m, Linear)]
        num_wide.append(sum(w.dtype == torch.float32 and not w.is_meta for w in weights))
        quantize(linear)

    monkeypatch.setattr(
        checkpoint, "build_empty", lambda config: model.append(build(config)) or model[0]
    )
    monkeypatch.setattr(Linear, "quantize_", watch)
    load(tmp_path, quantization="fp8")
    assert len(num_wide) == 4 * model[0].config.text.num_layers
    assert set(num_wide) == {1}


def test_a_device_without_eight_bit_products_is_refused_before_reading(tmp_path: Path) -> None:
    """Not after minutes of loading; the directory is not even looked at."""
    with pytest.raises(ConfigError, match="fp8"):
        load_model(tmp_path, dtype=torch.bfloat16, device="mps", quantization="fp8")


@torch.no_grad()
def test_a_tower_can_be_quantized_as_well(tmp_path: Path) -> None:
    """Not switched on by a setting; their projections just take it, biases included.

    0.1: more layers than the language model has here, each as far off.
    """
    write_checkpoint(tmp_path)
    wide, model = load(tmp_path), load(tmp_path)
    for tower in (model.low_res, model.high_res):
        assert tower is not None
        for module in tower.modules():
            if isinstance(module, Linear):
                module.quantize_()
    random = torch.Generator().manual_seed(0)
    images = [
        torch.randn(2, 3, side, side, generator=random)
        for side in (
            wide.config.low_res.image_size_px,
            wide.config.high_res.image_size_px if wide.config.high_res else 0,
        )
    ]
    wanted, found = (one.encode_images(*images) for one in (wide, model))
    assert 0.001 < relative_error(found, wanted) < 0.1
