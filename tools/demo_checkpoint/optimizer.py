"""Muon for matrices, Adam for everything else, over flat buffers.

All parameters lie in one tensor and all gradients in another, so that one call averages the
gradients of every rank, one measures their norm, and matrices of equal shape are stepped together.

Source: Muon, Jordan et al. 2024, kellerjordan.github.io/posts/muon; its scale by shape, which makes
Adam's learning rates fit, Liu et al. 2025, arXiv:2502.16982, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_MOMENTUM = 0.95
_BETAS, _EPS = (0.9, 0.98), 1e-8
_ADAM_SHARE = 0.5  # of the learning rate
_WEIGHT_DECAY = 0.02


class Optimizer:
    """Owns the memory of a module's parameters and gradients.

    Attributes:
        weights: ``float32[P]``, all parameters, matrices first.
        gradients: ``float32[P]``, added to by ``backward``.
        momentum: ``float32[M]``, of the matrices.
        mean: ``float32[P - M]``, of the other gradients.
        square: ``float32[P - M]``, of their squares.
        num_steps: Steps taken, for the bias of the two above.
        layout: Names and shapes in their order.
    """

    def __init__(self, module: nn.Module) -> None:
        """Move the parameters of a module, which is on its device already, into flat memory."""
        matrices, others = _sort(module)
        named = [*matrices, *others]
        device = named[0][1].device
        self.layout = [(name, tuple(parameter.shape)) for name, parameter, _ in named]
        num_weights = sum(parameter.numel() for _, parameter, _ in named)
        num_in_matrices = sum(parameter.numel() for _, parameter, _ in matrices)
        self.weights = torch.empty(num_weights, device=device)
        self.gradients = torch.zeros(num_weights, device=device)
        self.momentum = torch.zeros(num_in_matrices, device=device)
        self.mean = torch.zeros(num_weights - num_in_matrices, device=device)
        self.square = torch.zeros_like(self.mean)
        self.num_steps = 0
        start = 0
        for _, parameter, _ in named:
            part = slice(start, start + parameter.numel())
            self.weights[part] = parameter.detach().flatten()
            parameter.data = self.weights[part].view(parameter.shape)
            parameter.grad = self.gradients[part].view(parameter.shape)
            start = part.stop
        self._groups: list[tuple[slice, tuple[int, int, int]]] = []
        start = 0
        for shape, group in groupby(matrices, key=lambda entry: entry[2]):
            numel = sum(parameter.numel() for _, parameter, _ in group)
            rows, columns = shape
            part = slice(start, start + numel)
            self._groups.append((part, (numel // (rows * columns), rows, columns)))
            start = part.stop

    @torch.no_grad()
    def step(self, lr: float, *, max_norm: float) -> Tensor:
        """Change the weights and clear the gradients.

        Args:
            lr: Learning rate of the matrices; Adam has half of it.
            max_norm: Greater gradients are scaled down to it.

        Returns:
            Norm of the gradients.
        """
        self.num_steps += 1
        norm: Tensor = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        for part, shape in self._groups:
            gradient = self.gradients[part].view(shape)
            momentum = self.momentum[part].view(shape)
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, _MOMENTUM))
            scale = 0.2 * max(shape[1:]) ** 0.5
            weights = self.weights[part].view(shape)
            weights.mul_(1 - lr * _WEIGHT_DECAY).sub_(update, alpha=lr * scale)
        first = self.momentum.numel()
        gradient, weights = self.gradients[first:], self.weights[first:]
        self.mean.lerp_(gradient, 1 - _BETAS[0])
        self.square.lerp_(gradient.square(), 1 - _BETAS[1])
        mean = self.mean / (1 - _BETAS[0] ** self.num_steps)
        square = self.square / (1 - _BETAS[1] ** self.num_steps)
        weights.sub_(mean / (square.sqrt() + _EPS), alpha=lr * _ADAM_SHARE)
        self.gradients.zero_()
        return norm


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values near 1, from 0.7 to 1.2, by Newton and Schulz's iteration.

    Args:
        matrices: ``[n, rows, columns]``.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        product = x @ x.mT
        x = a * x + (b * product + c * product @ product) @ x
    output: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return output


def _sort(
    module: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter, tuple[int, int]]], list[tuple[str, nn.Parameter, None]]]:
    """Tell matrices, sorted by shape, from what Adam is for: embeddings, norms, first, last."""
    matrices, others = [], []
    for name, parameter, shape in _shapes(module):
        if shape is None:
            others.append((name, parameter, None))
        else:
            matrices.append((name, parameter, shape))
    return sorted(matrices, key=lambda entry: entry[2]), others


def _shapes(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, tuple[int, int] | None]]:
    """Give every parameter and, if it is made of matrices, their shape."""
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        is_matrix = name.endswith(".weight") and isinstance(owner, (nn.Linear, nn.Conv2d))
        if not is_matrix or "patch_embedding" in name or name.startswith("naming"):
            yield name, parameter, None
            continue
        # Queries, keys and values are matrices of their own, as are gate and up.
        sizes = set(getattr(owner, "part_sizes", (parameter.shape[0],)))
        assert len(sizes) == 1, name
        yield name, parameter, (sizes.pop(), parameter[0].numel())
