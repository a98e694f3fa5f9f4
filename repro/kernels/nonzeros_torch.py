"""The nonzeros of dense codes, row by row, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def nonzeros(z: Tensor) -> tuple[Tensor, Tensor]:
    """Values and columns [n, k] of the nonzeros of z [n, m], ascending, padded with 0; k = the largest count, or 1."""
    n = len(z)
    l0 = (z != 0).sum(1)
    rows, cols = torch.nonzero(z, as_tuple=True)  # row-major, so columns ascend within a row
    start = torch.zeros(n + 1, dtype=torch.long, device=z.device)
    start[1:] = l0.cumsum(0)
    slot = torch.arange(len(rows), device=z.device) - start[rows]
    values = torch.zeros(n, max(1, int(l0.max()) if n else 1), dtype=z.dtype, device=z.device)
    indices = torch.zeros(values.shape, dtype=torch.long, device=z.device)
    values[rows, slot] = z[rows, cols]
    indices[rows, slot] = cols
    return values, indices
