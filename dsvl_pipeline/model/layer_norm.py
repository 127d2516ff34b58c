"""The image towers' norms."""

from __future__ import annotations

from torch import Tensor, nn

from dsvl_pipeline.ops.image_norms import add_layer_norm


def add_norm(
    norm: nn.LayerNorm,
    hidden: Tensor,
    delta: Tensor | None,
    *,
    window_before: int | None = None,
    window_after: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `add_layer_norm` with a module's weights."""
    return add_layer_norm(
        hidden,
        delta,
        norm.weight,
        norm.bias,
        norm.eps,
        window_before=window_before,
        window_after=window_after,
    )
