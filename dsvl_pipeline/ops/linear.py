"""Matrix products whose rows do not depend on how many rows there are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Below 16 rows MKL switches to kernels that sum in another order, by the number of rows.
_MIN_ROWS = 16


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply every row by a weight matrix.

    In float32 on a CPU a row's result is the same bits whatever other rows are there, so that a
    completion does not depend on its batch. (With several threads MKL also splits the sums of large
    matrices, from about 1024 x 2048, by the number of rows; there this holds with one thread.)

    Args:
        x: ``[..., K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.

    Returns:
        ``[..., N]``.
    """
    num_rows = x.numel() // x.shape[-1]
    if x.device.type != "cpu" or x.dtype != torch.float32 or num_rows >= _MIN_ROWS:
        return F.linear(x, weight, bias)
    rows = F.pad(x.reshape(num_rows, x.shape[-1]), (0, 0, 0, _MIN_ROWS - num_rows))
    return F.linear(rows, weight, bias)[:num_rows].view(*x.shape[:-1], weight.shape[0])
