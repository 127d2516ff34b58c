"""Which tensors a Triton kernel takes, and which a torch reference."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def use_triton(tensor: Tensor, *others: Tensor | None) -> bool:
    """Return whether the operations on these tensors run as Triton kernels.

    On a GPU wherever Triton is installed. On a CPU only with ``TRITON_INTERPRET=1``, where Triton
    runs kernels step by step in NumPy: slow, for tests. Never where gradients are wanted, which
    the kernels do not give.
    """
    if torch.is_grad_enabled() and _require_grad(tensor, *others):
        return False
    return _can_launch() if tensor.is_cuda else _is_interpreting()


def _require_grad(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


@cache
def _can_launch() -> bool:
    """Look for the package; it is imported with the first kernel."""
    return find_spec("triton") is not None


@cache
def _is_interpreting() -> bool:
    """Look once, as Triton does when it reads a kernel."""
    return os.environ.get("TRITON_INTERPRET") == "1" and _can_launch()
