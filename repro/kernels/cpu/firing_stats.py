"""Sums over positive codes by latent, compiled for the CPU: one pass. Twin: reference.py."""

from __future__ import annotations

import numba as nb
import numpy as np
import torch
from torch import Tensor

from repro.kernels.cpu.threads import over

NONZEROS = 2**16  # that a part has at least: below, waking a thread takes longer than the sums


@nb.njit(cache=True, nogil=True)
def _firing_stats(start, stop, values, indices, m, y):
    sums = np.zeros((m, 4), np.float64)  # the four sums of a latent share a cache line
    for i in range(start, stop):
        for j in range(values.shape[1]):
            if values[i, j] > 0:
                z, s = np.float64(values[i, j]), sums[indices[i, j]]
                s[0] += 1
                s[1] += z
                s[2] += z * z
                s[3] += z * y[i]
    return sums


def firing_stats(values: Tensor, indices: Tensor, m: int, y: Tensor) -> Tensor:
    """Rows of the result [4, m], float64: count, sum z, sum z^2, sum z y over codes z > 0; y [n] float64."""
    least = max(4 * m, NONZEROS) // max(1, values.shape[1])
    parts = over(len(values), _firing_stats, values, indices, m, y, least=least)
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.add.reduce(parts)).T
