"""The projection that every part of the model is built from."""

from __future__ import annotations

from torch import Tensor, nn

from dsvl_pipeline.ops.linear import project
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows


class Linear(nn.Linear):
    """A projection to one or several outputs, fused into one matrix.

    Attributes:
        part_sizes: Rows of the weight that belong to each output; a checkpoint may store the parts
            as tensors of their own.
        weight_scale: ``float32[N, 1]`` once quantised: one a row of the weight.
    """

    weight_scale: Tensor | None

    def __init__(self, in_features: int, *part_sizes: int, bias: bool = True) -> None:
        super().__init__(in_features, sum(part_sizes), bias=bias)
        self.part_sizes = part_sizes
        self.register_buffer("weight_scale", None)

    @property
    def is_quantized(self) -> bool:
        """Whether it multiplies in eight bits, and so takes quantised rows as they are."""
        return self.weight_scale is not None

    @property
    def can_quantize(self) -> bool:
        """Whether tensor cores take its shape: e4m3 matrices come in multiples of 16."""
        return all(size % 16 == 0 for size in (self.in_features, *self.part_sizes))

    def quantize_(self) -> None:
        """Replace the weight by e4m3 with a scale for each row; leave a shape that cannot be.

        The original is dropped. What is quantised must not be cast any more.
        """
        if self.is_quantized or not self.can_quantize:
            return
        found = quantize_rows(self.weight.detach())
        self.weight = nn.Parameter(found.values, requires_grad=False)
        self.weight_scale = found.scale

    def forward(self, x: Tensor | Quantized, rows: slice | None = None) -> Tensor:
        """Project; ``rows`` of the weight choose some of the outputs."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        scale = self.weight_scale
        if rows is not None:
            weight = weight[rows]
            bias = None if bias is None else bias[rows]
            scale = None if scale is None else scale[rows]
        return project(x, weight, bias, scale)
