"""Eight-bit rows and products, as torch computes them on any device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.ops.activation import silu_mul
from dsvl_pipeline.ops.linear import project, require_fp8
from dsvl_pipeline.ops.norms import add_rms_norm, rms_norm
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows


def random(*shape: int, seed: int = 0) -> Tensor:
    """Values around 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dequantized(x: Quantized) -> Tensor:
    """In float64: exact."""
    return x.values.double() * x.scale.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_are_rounded_to_three_bits_of_their_own_range(dtype: torch.dtype) -> None:
    """Half a step: 1 / 16 of a value, or of the least step, which is 2 ** -9 of the scale."""
    x = (random(40, 100) * torch.logspace(-4, 4, 40)[:, None]).to(dtype)
    found = quantize_rows(x)
    assert found.dtype == dtype
    assert found.scale.dtype == torch.float32
    error = (dequantized(found) - x.double()).abs()
    # 1.001: the scale is a float32
    assert (error <= 1.001 * torch.maximum(x.double().abs() / 16, found.scale * 2**-10)).all()
    assert (found.values.float().abs().amax(-1) == 448).all()


def test_rows_of_zeros_and_of_tiny_values_stay_finite() -> None:
    """A scale of zero would make them NaN, in this row of the product and for good."""
    x = torch.stack((torch.zeros(8), torch.full((8,), 1e-38), torch.full((8,), 3e38)))
    found = quantize_rows(x)
    assert dequantized(found).isfinite().all()
    assert not found.values[0].float().any()
    torch.testing.assert_close(dequantized(found)[2], x[2].double(), rtol=1e-6, atol=0)


def test_a_row_that_is_not_finite_spoils_itself_alone() -> None:
    """Each row has its own scale."""
    x = random(3, 16)
    x[1, 3] = torch.inf
    found = dequantized(quantize_rows(x))
    assert found[1].isnan().any()
    assert torch.equal(found[[0, 2]], dequantized(quantize_rows(x[[0, 2]])))


def test_what_is_quantized_was_rounded_before() -> None:
    """Norm and activation give eight bits of what they would give without."""
    x, delta = random(4, 64).bfloat16(), random(4, 64, seed=1).bfloat16()
    weight = random(64, seed=2).bfloat16()
    pairs = [
        (rms_norm(x, weight, 1e-6, quantize=True), rms_norm(x, weight, 1e-6)),
        (silu_mul(x, quantize=True), silu_mul(x)),
        (
            add_rms_norm(x, delta, weight, 1e-6, quantize=True)[1],
            add_rms_norm(x, delta, weight, 1e-6)[1],
        ),
    ]
    for found, plain in pairs:
        assert torch.equal(dequantized(found), dequantized(quantize_rows(plain)))


def test_the_sum_before_a_norm_is_kept() -> None:
    """The residual stream goes on from it; the norm is that of the rounded sum."""
    x, delta = random(4, 64).bfloat16(), random(4, 64, seed=1).bfloat16()
    weight = random(64, seed=2).bfloat16()
    total, normed = add_rms_norm(x, delta, weight, 1e-6)
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, rms_norm(x + delta, weight, 1e-6))


def test_rows_can_be_chosen() -> None:
    """The last layer goes on with some rows of what was quantised for all."""
    x, index = random(6, 16), torch.tensor([4, 0, 4])
    found = quantize_rows(x).rows(index)
    assert torch.equal(dequantized(found), dequantized(quantize_rows(x))[index])


@pytest.mark.parametrize("num_rows", [1, 5, 40])
@pytest.mark.parametrize("has_bias", [False, True])
def test_quantized_product(num_rows: int, has_bias: bool) -> None:
    """Against the float64 product of the same eight-bit values (1e-5: float32 sums of 96)."""
    x, weight = random(num_rows, 96), quantize_rows(random(50, 96, seed=1))
    bias = random(50, seed=2) if has_bias else None
    rows = quantize_rows(x)
    wanted = dequantized(rows) @ dequantized(weight).t()
    if bias is not None:
        wanted += bias
    found = project(rows, weight.values, bias, weight.scale)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4, check_dtype=False)
    assert torch.equal(found, project(x, weight.values, bias, weight.scale))


def test_a_quantized_product_keeps_leading_dimensions_and_dtype() -> None:
    """Towers pass images as batches, and all but the weights stays in 16 bits."""
    weight = quantize_rows(random(5, 16))
    found = project(random(2, 3, 16).bfloat16(), weight.values, None, weight.scale)
    assert (found.shape, found.dtype) == ((2, 3, 5), torch.bfloat16)


def test_a_quantized_row_does_not_depend_on_the_others() -> None:
    """As without quantisation, on a CPU to the bit."""
    x, weight = random(40, 64), quantize_rows(random(48, 64, seed=1))
    together = project(x, weight.values, None, weight.scale)
    for num_rows in (1, 2, 15, 16, 17):
        found = project(x[-num_rows:], weight.values, None, weight.scale)
        assert torch.equal(found, together[-num_rows:])


def test_devices_without_eight_bit_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before weights are read, with the device's name and the way out."""
    require_fp8(torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"fp8 .* mps .* use quantization none"):
        require_fp8(torch.device("mps"))
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ConfigError, match=r"NVIDIA A100 \(compute capability 8.0\)"):
        require_fp8(cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    require_fp8(cuda)
