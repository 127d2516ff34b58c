"""Matrix products, in the dtype of the weight or with both sides in eight bits.

On a CPU a row's result does not depend on how many rows there are.

Letters: ``T`` rows, ``K`` their width, ``N`` outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.ops.backend import use_triton
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows

# Below 16 rows MKL switches to kernels that sum in another order, by the number of rows.
_MIN_ROWS = 16


def project(
    x: Tensor | Quantized,
    weight: Tensor,
    bias: Tensor | None = None,
    weight_scale: Tensor | None = None,
) -> Tensor:
    """Multiply every row by a weight matrix.

    In float32 on a CPU a row's result is the same bits whatever other rows are there, so that a
    completion does not depend on its batch. (With several threads MKL also splits the sums of large
    matrices, from about 1024 x 2048, by the number of rows; there this holds with one thread.)

    Args:
        x: ``[..., K]``, or ``[T, K]`` quantised. With a quantised weight, rows that are not yet
            quantised are so here.
        weight: ``[N, K]``; float8_e4m3fn where there is a ``weight_scale``.
        bias: ``[N]``.
        weight_scale: ``float32[N, 1]``; the weight is ``weight * weight_scale``.

    Returns:
        ``[..., N]`` in the dtype of ``x`` (before quantisation).
    """
    if weight_scale is None:
        assert isinstance(x, Tensor), "rows are quantised for a weight that is not"
        return _project_wide(x, weight, bias)
    if isinstance(x, Quantized):
        return _project_quantized(x, weight, bias, weight_scale)
    rows = quantize_rows(x.reshape(-1, x.shape[-1]))
    found = _project_quantized(rows, weight, bias, weight_scale)
    return found.view(*x.shape[:-1], weight.shape[0])


def _project_wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    num_rows = x.numel() // x.shape[-1]
    if x.device.type != "cpu" or x.dtype != torch.float32 or num_rows >= _MIN_ROWS:
        return F.linear(x, weight, bias)
    rows = F.pad(x.reshape(num_rows, x.shape[-1]), (0, 0, 0, _MIN_ROWS - num_rows))
    return F.linear(rows, weight, bias)[:num_rows].view(*x.shape[:-1], weight.shape[0])


def _project_quantized(
    x: Quantized, weight: Tensor, bias: Tensor | None, weight_scale: Tensor
) -> Tensor:
    num_rows, num_out = x.values.shape[0], weight.shape[0]
    if weight.is_cuda and x.dtype != torch.float32 and num_rows > 0:
        if use_triton(weight):
            from dsvl_pipeline.ops.kernels import linear as kernels

            if kernels.takes(num_rows, num_out, weight.device):
                args = (x.values, x.scale, weight, weight_scale, bias, x.dtype)
                return kernels.project_few_rows(*args)
        found = torch._scaled_mm(
            x.values,
            weight.t(),
            scale_a=x.scale,
            scale_b=weight_scale.t(),
            out_dtype=torch.bfloat16,  # the only one that scales by row may have
            # sums of 14 bits (arXiv:2412.19437, section 3.3.2): the operands had but four
            use_fast_accum=True,
        )
        # Not by the product itself: with few rows that lost up to 1 % of 11008 terms on an H200.
        return (found if bias is None else found + bias).to(x.dtype)
    # each product of two e4m3 values is exact in float32, and scaled last as by the kernel
    found = _project_wide(x.values.to(torch.float32), weight.to(torch.float32), None)
    found = found * x.scale * weight_scale.t()
    return (found if bias is None else found + bias).to(x.dtype)


def require_fp8(device: torch.device) -> None:
    """Refuse a device that cannot multiply e4m3 matrices with a scale for each row.

    A CPU can, slowly, so that the same settings run in tests.

    Raises:
        ConfigError: It cannot.
    """
    if device.type == "cpu":
        return
    name = str(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        # Ada (8.9) has e4m3 as well, but before torch 2.12 such a product may stall there:
        # https://github.com/pytorch/pytorch/issues/177651
        if major >= 9 and torch.version.hip is None:
            return
        name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    raise ConfigError(
        f"quantization fp8 needs products of e4m3 matrices, which {name} does not have or not "
        f"reliably; use quantization none, or an NVIDIA GPU of Hopper's generation (H100) or later"
    )
