"""The projection that every part of the model is built from."""

from __future__ import annotations

from torch import Tensor, nn

from dsvl_pipeline.ops.linear import project


class Linear(nn.Linear):
    """A projection to one or several outputs, fused into one matrix.

    Attributes:
        part_sizes: Rows of the weight that belong to each output; a checkpoint may store the parts
            as tensors of their own.
    """

    def __init__(self, in_features: int, *part_sizes: int, bias: bool = True) -> None:
        super().__init__(in_features, sum(part_sizes), bias=bias)
        self.part_sizes = part_sizes

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias)
