"""Rows in eight bits, each with a scale of its own.

Letters: ``T`` rows, ``K`` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsvl_pipeline.ops.backend import use_triton

E4M3_MAX = 448.0
# The least peak that a row is scaled by: its inverse, 448 / peak, must stay finite.
_LEAST_PEAK = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantized:
    """Rows as ``values * scale``.

    Attributes:
        values: ``float8_e4m3fn[T, K]``.
        scale: ``float32[T, 1]``, the row's largest magnitude over 448.
        dtype: What the rows were, and what products with them become.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype

    def rows(self, index: Tensor) -> Quantized:
        """Choose rows by ``int64[B]``."""
        # as bytes: indexing has no kernel for eight-bit floats on every device
        values = self.values.view(torch.uint8)[index].view(self.values.dtype)
        return Quantized(values=values, scale=self.scale[index], dtype=self.dtype)


def quantize_rows(x: Tensor) -> Quantized:
    """Scale each row so that its largest magnitude becomes 448, and round to e4m3.

    Args:
        x: ``[T, K]``, rows contiguous.
    """
    if use_triton(x):
        from dsvl_pipeline.ops.kernels import quantize as kernels

        values, scale = kernels.quantize_rows(x)
        return Quantized(values=values, scale=scale, dtype=x.dtype)
    wide = x.to(torch.float32)
    peak = wide.abs().amax(-1, keepdim=True).clamp(min=_LEAST_PEAK)
    # A tensor above the line: for a plain number torch multiplies by the inverse, rounded twice.
    inverse = torch.tensor(E4M3_MAX, device=peak.device) / peak
    values = (wide * inverse).to(torch.float8_e4m3fn)
    return Quantized(values=values, scale=peak * (1 / E4M3_MAX), dtype=x.dtype)
