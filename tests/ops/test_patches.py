"""The towers' first projection, as a convolution and as a matrix product."""

from __future__ import annotations

import pytest
import torch

from dsvl_pipeline.ops import patches


@pytest.mark.parametrize(("side", "patch"), [(48, 16), (50, 16), (12, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_both_ways_give_the_same_patches(side: int, patch: int, has_bias: bool) -> None:
    """A GPU takes the product, a CPU the convolution (1e-4: float32 sums of up to 768)."""
    random = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(2, 3, side, side, generator=random)
    weight = torch.randn(20, 3, patch, patch, generator=random)
    bias = torch.randn(20, generator=random) if has_bias else None
    found = patches._project_patches(pixel_values, weight, bias)
    wanted = patches.embed_patches(pixel_values, weight, bias)
    assert found.shape == (2, side // patch, side // patch, 20)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous()
    assert wanted.is_contiguous()


def test_a_patch_is_read_row_by_row() -> None:
    """One weight at a time shows which pixel it meets."""
    pixel_values = torch.arange(2.0 * 3 * 8 * 8).view(2, 3, 8, 8)
    weight = torch.eye(3 * 4 * 4).view(-1, 3, 4, 4)
    found = patches._project_patches(pixel_values, weight, None)
    assert torch.equal(found[1, 0, 1].view(3, 4, 4), pixel_values[1, :, :4, 4:])
