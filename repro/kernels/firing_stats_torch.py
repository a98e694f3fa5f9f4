"""Sums over positive codes by latent in plain torch: a pass for each."""

from __future__ import annotations

import torch
from torch import Tensor


def firing_stats(values: Tensor, indices: Tensor, m: int, y: Tensor) -> Tensor:
    """Rows of the result [4, m], float64: count, sum z, sum z^2, sum z y over codes z > 0; y [n] float64."""
    z, flat = values.clamp_min(0).double(), indices.flatten()

    def by_latent(t: Tensor) -> Tensor:
        return torch.zeros(m, dtype=torch.float64, device=z.device).index_add_(0, flat, t.flatten())

    return torch.stack([by_latent((z > 0).double()), by_latent(z), by_latent(z * z), by_latent(z * y[:, None])])
