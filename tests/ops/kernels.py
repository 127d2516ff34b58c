"""Where Triton's kernels are tested: on a GPU, or on a CPU in Triton's interpreter.

``TRITON_INTERPRET=1 pytest tests/ops`` runs them on a CPU, ``pytest -m gpu tests/ops`` on a GPU.
Elsewhere the tests that take a ``device`` from here are deselected.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    *([pytest.param("cpu")] if IS_INTERPRETED else []),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)

# triton 3.6 on NumPy 2
INTERPRETER_WARNS = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning"
)


def on_each_device_with(*dtypes: tuple[torch.dtype, ...]) -> pytest.MarkDecorator:
    """Vary ``dtypes`` and ``device``; the interpreter multiplies no matrices of bfloat16."""
    cases = [
        pytest.param(some, device.values[0], marks=device.marks)
        for device in DEVICES
        for some in dtypes
        if device.values[0] == "cuda" or set(some) != {torch.bfloat16}
    ]
    return pytest.mark.parametrize(("dtypes", "device"), cases, ids=str)


def random(*shape: int, dtype: torch.dtype, device: str, seed: int = 0) -> torch.Tensor:
    """Values around 1, the same on every device."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).to(device)


def poisoned(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Nothing but NaN: who reads what nobody wrote is found out."""
    return torch.full(shape, torch.nan).to(dtype).to(device)
