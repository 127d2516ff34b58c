"""Projections, norms, activations and rotary positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops.activation import silu_mul
from dsvl_pipeline.ops.linear import project
from dsvl_pipeline.ops.norms import rms_norm
from dsvl_pipeline.ops.rotary import apply_rotary, rotary_frequencies, rotary_tables


def random(*shape: int, seed: int = 0) -> Tensor:
    """Values around 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("in_features", "out_features"), [(64, 192), (256, 1280), (640, 101)])
def test_a_projected_row_does_not_depend_on_the_others(in_features: int, out_features: int) -> None:
    """The CPU's matrix kernels sum in another order for few rows; that must not show."""
    x, weight, bias = (
        random(80, in_features),
        random(out_features, in_features),
        random(out_features),
    )
    together = project(x, weight, bias)
    for num_rows in (1, 2, 3, 5, 8, 13, 15, 16, 17, 40):
        first = 80 - num_rows
        assert torch.equal(project(x[first:], weight, bias), together[first:])


def test_projection_keeps_the_leading_dimensions() -> None:
    """As ``torch.nn.functional.linear``, up to the last bits (1e-5: sums of 12 products)."""
    x, weight = random(2, 3, 12), random(5, 12)
    assert project(x, weight).shape == (2, 3, 5)
    torch.testing.assert_close(
        project(x, weight), torch.nn.functional.linear(x, weight), atol=1e-5, rtol=1e-5
    )
    assert project(x[:, :0], weight).shape == (2, 0, 5)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    """Without subtracting a mean, and with the eps inside the root."""
    x, weight = random(5, 32), random(32, seed=1)
    mean_square = (x.double() ** 2).sum(-1, keepdim=True) / 32
    expected = weight * x.double() / (mean_square + 0.1).sqrt()
    torch.testing.assert_close(rms_norm(x, weight, 0.1), expected, check_dtype=False)


def test_rms_norm_is_computed_in_float32() -> None:
    """Narrow rows are rounded once, at the end: a sum of squares in bfloat16 is off by percents."""
    x = random(5, 4096).to(torch.bfloat16)
    ones = torch.ones(4096)
    narrow = rms_norm(x, ones.to(torch.bfloat16), 1e-6)
    assert torch.equal(narrow, rms_norm(x.float(), ones, 1e-6).to(torch.bfloat16))


def test_silu_gates_the_second_half_by_the_first() -> None:
    """The order in which gate and up projections are fused."""
    x = random(4, 10)
    gate, up = x[:, :5].double(), x[:, 5:].double()
    expected = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(silu_mul(x), expected, check_dtype=False)


def test_rotary_turns_channel_pairs_by_their_angle() -> None:
    """Channel i and i + D / 2 are one complex number, turned by position * theta^(-2i / D)."""
    D, positions = 8, torch.tensor([0, 3, 700])
    x = random(3, 2, D)
    pairs = torch.complex(x[..., : D // 2].double(), x[..., D // 2 :].double())
    angles = positions[:, None].double() * 5000.0 ** (-torch.arange(0, D, 2).double() / D)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    cos, sin = rotary_tables(positions, rotary_frequencies(D, 5000.0))
    # 1e-4: float32 knows an angle of 700 to 6e-5
    torch.testing.assert_close(
        apply_rotary(x, cos, sin), expected, atol=1e-4, rtol=1e-4, check_dtype=False
    )
