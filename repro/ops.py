"""Public tensor operations; the tensor in hand chooses the implementation."""

import torch
from torch import Tensor


def decode(values: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    """x_hat [n, d] = sum over the k slots of values [n, k] * atoms[indices [n, k]]; atoms [m, d]."""
    return torch.nn.functional.embedding_bag(indices, atoms, per_sample_weights=values.to(atoms.dtype), mode="sum")
