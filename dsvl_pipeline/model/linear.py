"""The projection that every part of the model is built from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from dsvl_pipeline.ops.linear import project
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows


class Linear(nn.Linear):
    """A projection to one or several outputs, fused into one matrix.

    Attributes:
        part_sizes: Rows of the weight that belong to each output; a checkpoint may store the parts
            as tensors of their own.
        weight_scale: ``float32[N, 1]`` once quantised: one a row of the weight.
        parts: Modules that stand for the outputs where the model can be trained or changed; see
            `split`. Empty in an engine's own model.
    """

    weight_scale: Tensor | None
    parts: tuple[nn.Module, ...] = ()
    has_other_parts: bool = False

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

    def split(self) -> tuple[Linear, ...]:
        """Give one projection per output, whose weights lie in this one's memory.

        They are what is trained. This one's own weight then serves where no gradients are needed.
        """
        has_bias = self.bias is not None
        with torch.device("meta"):
            parts = tuple(Linear(self.in_features, size, bias=has_bias) for size in self.part_sizes)
        for part, rows in zip(parts, self._rows(), strict=True):
            for name, whole in self.named_parameters():
                is_alone = len(parts) == 1
                setattr(part, name, whole if is_alone else nn.Parameter(_slice(whole, rows)))
        if len(parts) > 1:
            self.requires_grad_(False)
        self.parts = parts
        return parts

    def join(self, parts: Sequence[nn.Module]) -> None:
        """Follow the parts, which were moved, cast, replaced or given hooks since `split`.

        Parts of another kind (a low-rank adapter, say) are called one by one from now on. The
        others become slices of one matrix again, where they are not.
        """
        self.parts = tuple(parts)
        self.has_other_parts = any(map(_is_other, parts)) or not self._fits()
        if self.has_other_parts:
            return
        with torch.inference_mode(False), torch.no_grad():
            for name in dict(parts[0].named_parameters()):
                found: list[nn.Parameter] = [getattr(part, name) for part in parts]
                if len(found) == 1:
                    if getattr(self, name) is not found[0]:
                        setattr(self, name, found[0])
                elif not _lies_in(getattr(self, name), found):
                    whole = torch.cat([one.data for one in found])
                    setattr(self, name, nn.Parameter(whole, requires_grad=False))
                    for one, rows in zip(found, self._rows(), strict=True):
                        one.data = _slice(whole, rows)

    def _rows(self) -> list[slice]:
        return [slice(a, b) for a, b in pairwise(accumulate(self.part_sizes, initial=0))]

    def _fits(self) -> bool:
        """Whether the parts could be slices of one matrix."""
        shapes = [(size, self.in_features) for size in self.part_sizes]
        weights: list[Any] = [part.weight for part in self.parts]
        kinds = {(weight.dtype, weight.device) for weight in weights}
        return len(kinds) == 1 and [tuple(weight.shape) for weight in weights] == shapes

    def forward(self, x: Tensor | Quantized, rows: slice | None = None) -> Tensor:
        """Project; ``rows`` of the weight choose some of the outputs."""
        if self.parts and (self.has_other_parts or torch.is_grad_enabled()):
            chosen = range(self.out_features)[rows or slice(None)]
            pairs = zip(self.parts, self._rows(), strict=True)
            found = [part(x) for part, own in pairs if own.start in chosen]
            return found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        scale = self.weight_scale
        if rows is not None:
            weight = weight[rows]
            bias = None if bias is None else bias[rows]
            scale = None if scale is None else scale[rows]
        return project(x, weight, bias, scale)


def _is_other(part: nn.Module) -> bool:
    """Whether calling it may do other things than multiply by its weight."""
    has_hooks = bool(part._forward_hooks or part._forward_pre_hooks)
    return type(part) is not Linear or has_hooks or "forward" in vars(part)


def _lies_in(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether the parts are slices of the whole, one behind the other."""
    address = whole.data_ptr()
    for part in parts:
        if part.data_ptr() != address or part.dtype != whole.dtype or part.device != whole.device:
            return False
        address += part.numel() * part.element_size()
    return True


def _slice(whole: Tensor, rows: slice) -> Tensor:
    """Give rows as a tensor whose storage is theirs alone, though the memory is the whole's.

    Libraries take tensors of one storage for one tied weight, and save but one of them.
    """
    found = whole.detach()[rows]
    return found if found.is_meta else from_dlpack(found)
