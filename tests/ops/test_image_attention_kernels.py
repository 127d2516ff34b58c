"""The kernels for images against attention written out in float64.

Tolerances as in ``test_attention_kernels``; terms of 16 bits round to 2^-8 of their size, and are
added to scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops import image_attention
from tests.ops.kernels import INTERPRETER_WARNS, on_each_device_with, random

pytestmark = INTERPRETER_WARNS

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}
DTYPES = [(torch.float32,), (torch.bfloat16,), (torch.float16,)]


@pytest.fixture(autouse=True)
def _kernels_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reference must not step in for a kernel under test, and outputs start as NaN."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the torch reference ran")

    def empty(*shape: int, **kinds: Any) -> Tensor:
        return torch.full(shape, torch.nan, **kinds)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "einsum", refuse)
        patch.setattr(torch, "empty", empty)
        yield


def expected(q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """In float64, with the bias made pair by pair of patches: ``[N, L, H * D]``."""
    q, k, v, rel_pos_h, rel_pos_w = (x.double() for x in (q, k, v, rel_pos_h, rel_pos_w))
    G = (len(rel_pos_h) + 1) // 2
    patch = torch.arange(G * G, device=q.device)
    rows = patch[:, None] // G - patch // G + G - 1  # (query, key)
    columns = patch[:, None] % G - patch % G + G - 1
    bias = (q @ rel_pos_h.T).gather(-1, rows.expand(*q.shape[:2], -1, -1))
    bias += (q @ rel_pos_w.T).gather(-1, columns.expand(*q.shape[:2], -1, -1))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@on_each_device_with(*DTYPES)
@pytest.mark.parametrize(
    ("N", "H", "G", "D"),
    [(2, 3, 4, 16), (1, 2, 8, 32), (3, 2, 14, 64), (1, 1, 16, 64), (1, 1, 18, 32), (1, 1, 32, 32)],
)
def test_grid_attention_equals_the_definition(
    N: int, H: int, G: int, D: int, dtypes: tuple[torch.dtype], device: str
) -> None:
    """Grids as wide as a tile and narrower; queries, keys and values as one projection has them."""
    (dtype,) = dtypes
    qkv = random(N, G * G, 3, H, D, dtype=dtype, device=device).permute(2, 0, 3, 1, 4)
    rel_pos_h = random(2 * G - 1, D, dtype=dtype, device=device, seed=1) / 4
    rel_pos_w = random(2 * G - 1, D, dtype=dtype, device=device, seed=2) / 4
    found = image_attention.attend_grid(*qkv, rel_pos_h, rel_pos_w)
    wanted = expected(*qkv, rel_pos_h, rel_pos_w)
    assert found.dtype == dtype
    assert found.is_contiguous()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance, check_dtype=False)


@on_each_device_with(*DTYPES[:1])
def test_grid_attention_takes_any_strides(dtypes: tuple[torch.dtype], device: str) -> None:
    """Keys that lie otherwise than queries."""
    (dtype,) = dtypes
    q, k, v = (random(2, 3, 16, 16, dtype=dtype, device=device, seed=seed) for seed in range(3))
    k = k.transpose(2, 3).contiguous().transpose(2, 3)
    tables = random(2, 7, 16, dtype=dtype, device=device, seed=3)
    found = image_attention.attend_grid(q, k, v, *tables)
    torch.testing.assert_close(
        found, expected(q, k, v, *tables), atol=1e-4, rtol=1e-4, check_dtype=False
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_image_attention_equals_the_definition(dtype: torch.dtype) -> None:
    """Whichever backend takes it, cuDNN first."""
    q, k, v = random(2, 577, 3, 4, 64, dtype=dtype, device="cuda").permute(2, 0, 3, 1, 4)
    weights = (q.double() @ k.double().transpose(-1, -2) / 8).softmax(-1)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        image_attention.attend_image(q, k, v),
        weights @ v.double(),
        atol=tolerance,
        rtol=tolerance,
        check_dtype=False,
    )
