"""The nonzeros of dense codes, compiled for the CPU: counted first, then copied. Twin: reference.py."""

from __future__ import annotations

import numba as nb
import torch
from torch import Tensor

from repro.kernels.cpu.threads import over


@nb.njit(cache=True, nogil=True)
def _count(start, stop, z, l0):
    for i in range(start, stop):
        row, count = z[i], 0
        for j in range(row.size):
            count += row[j] != 0
        l0[i] = count


@nb.njit(cache=True, nogil=True)
def _copy(start, stop, z, values, indices):
    for i in range(start, stop):
        row, v, c, at = z[i], values[i], indices[i], 0
        for j in range(row.size):
            if row[j] != 0:
                v[at], c[at] = row[j], j
                at += 1
        v[at:], c[at:] = 0, 0


def nonzeros(z: Tensor) -> tuple[Tensor, Tensor]:
    """Values and columns [n, k] of the nonzeros of z [n, m], ascending, padded with 0; k = the largest count, or 1."""
    l0 = torch.empty(len(z), dtype=torch.long)
    over(len(z), _count, z, l0)
    width = max(1, int(l0.max()) if len(l0) else 1)
    values, indices = torch.empty(len(z), width, dtype=z.dtype), torch.empty(len(z), width, dtype=torch.long)
    over(len(z), _copy, z, values, indices)
    return values, indices
