"""The layout of sparse codes: a row's nonzeros first, columns ascending, padded with value 0 and index 0."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(values: Tensor, columns: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Values and columns [n, w] in that layout, of nonzeros that lie anywhere in values and columns [n, k].

    w is the largest number of nonzeros of a row, at least 1. m: the number of latents.
    """
    order, slots = torch.where(values != 0, columns, m).sort(dim=1)
    width = max(1, int((order < m).sum(1).max()) if len(order) else 1)
    order, values = order[:, :width], values.gather(1, slots[:, :width])
    return torch.where(order < m, values, 0), torch.where(order < m, order, 0)
