"""Vocabularies of another size: embeddings and heads with more rows, or fewer.

Source of the behaviour: ``resize_token_embeddings``, transformers 5.23; Hewitt 2021, "Initializing
new word embeddings for pretrained language models".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How much less than the old rows the new ones differ from one another.
_SHRINKING = 1e-9


@torch.no_grad()
def resized(weight: Tensor, num_rows: int, *, std: float, is_mean: bool) -> nn.Parameter:
    """Return a weight with other many rows; the first ones stay.

    Args:
        weight: ``[V, D]``.
        num_rows: How many it has afterwards.
        std: Of new rows that are drawn around zero.
        is_mean: Whether new rows are drawn close around the mean of the old ones instead: a new
            token is then no likelier than an average one.
    """
    num_new = num_rows - weight.shape[0]
    if num_new <= 0:
        return nn.Parameter(weight[:num_rows].clone(), requires_grad=weight.requires_grad)
    if is_mean:
        wide = weight.to(torch.float32)
        mean = wide.mean(0)
        noise = torch.randn(num_new, weight.shape[0], device=weight.device)
        spread = noise @ (wide - mean) * (_SHRINKING / weight.shape[0]) ** 0.5
        new = (mean + spread).to(weight.dtype)
    else:
        new = torch.empty_like(weight[:1]).expand(num_new, -1).clone().normal_(std=std)
    return nn.Parameter(torch.cat([weight, new]), requires_grad=weight.requires_grad)
