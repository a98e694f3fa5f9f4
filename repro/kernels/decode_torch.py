"""Sparse decode in plain torch, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def decode(values: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    """sum_j values[:, j] * atoms[indices[:, j]], [n, d]."""
    return torch.nn.functional.embedding_bag(indices, atoms, per_sample_weights=values, mode="sum")
