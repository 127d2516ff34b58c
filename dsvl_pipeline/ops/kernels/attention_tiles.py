"""How the attention kernels cut their work, and what they multiply in.

Scores are kept in base 2 (a kernel's ``scale`` holds the factor log2(e)), where the exponential is
one instruction. A factor has to be positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
import triton.language as tl
from torch import Tensor

LOG2_E = log2(2.718281828459045)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a kernel cuts its work; found by measuring (``benchmarks/kernels.py``).

    Attributes:
        queries: Rows of queries that a program holds, a power of two, at least 16.
        keys: Keys it reads at a time, likewise.
        num_warps: Warps of 32 threads that share a program.
        num_stages: Depth of the pipeline of reads. Where keys wait for the page table, 3 is one
            tile ahead and 5 two; even numbers add nothing.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def choose_tiles(q: Tensor, k: Tensor, usual: Tiles, float8: Tiles, float32: Tiles) -> Tiles:
    """Return the tiles for these dtypes of queries and keys."""
    if q.dtype == torch.float32:
        return float32
    return float8 if k.element_size() == 1 else usual


def compute_type(q: Tensor, k: Tensor) -> tl.dtype:
    """Return the dtype of both matrix products' factors."""
    if q.dtype == torch.float32:
        return tl.float32
    # from float8 there is an instruction to float16, but none to bfloat16
    return tl.float16 if q.dtype == torch.float16 or k.element_size() == 1 else tl.bfloat16
