"""Sparse decode and its gradients, compiled for the CPU. Twin: reference.py."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from repro.kernels.cpu.threads import over

fast: dict[str, Any] = {"fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"}, "cache": True, "nogil": True}


@nb.njit(**fast)
def _combine(weights, which, count, rows, y):
    """y = sum over s < count of weights[s] rows[which[s]], four rows at a time, which reads y less often."""
    y[:] = 0
    for s in range(0, count - count % 4, 4):
        v0, v1, v2, v3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        a0, a1, a2, a3 = rows[which[s]], rows[which[s + 1]], rows[which[s + 2]], rows[which[s + 3]]
        for t in range(y.size):
            y[t] += (v0 * a0[t] + v1 * a1[t]) + (v2 * a2[t] + v3 * a3[t])
    for s in range(count - count % 4, count):
        v, a = weights[s], rows[which[s]]
        for t in range(y.size):
            y[t] += v * a[t]


@nb.njit(**fast)
def _forward(start, stop, values, indices, atoms, out):
    k = values.shape[1]
    weights, which = np.empty(k, values.dtype), np.empty(k, np.int64)
    for i in range(start, stop):
        count = 0
        for j in range(k):
            if values[i, j] != 0:
                weights[count], which[count] = values[i, j], indices[i, j]
                count += 1
        _combine(weights, which, count, atoms, out[i])


@nb.njit(**fast)
def _backward_values(start, stop, grad, indices, atoms, out):
    """Four atoms at a time, so that four rows are on their way from memory."""
    k, zero = indices.shape[1], out.dtype.type(0)
    for i in range(start, stop):
        g, row, to = grad[i], indices[i], out[i]
        for j in range(0, k - k % 4, 4):
            a0, a1, a2, a3 = atoms[row[j]], atoms[row[j + 1]], atoms[row[j + 2]], atoms[row[j + 3]]
            s0 = s1 = s2 = s3 = zero
            for t in range(g.size):
                s0 += g[t] * a0[t]
                s1 += g[t] * a1[t]
                s2 += g[t] * a2[t]
                s3 += g[t] * a3[t]
            to[j], to[j + 1], to[j + 2], to[j + 3] = s0, s1, s2, s3
        for j in range(k - k % 4, k):
            a, s0 = atoms[row[j]], zero
            for t in range(g.size):
                s0 += g[t] * a[t]
            to[j] = s0


@nb.njit(**fast)
def _by_latent(values, indices, m):
    """A counting sort of the nonzeros: where each latent's begin [m + 1], and their rows and values in that order."""
    begin = np.zeros(m + 2, np.int64)
    n, k = values.shape
    for i in range(n):
        for j in range(k):
            if values[i, j] != 0:
                begin[indices[i, j] + 2] += 1
    for latent in range(m):
        begin[latent + 2] += begin[latent + 1]
    rows, sorted_values = np.empty(begin[m + 1], np.int64), np.empty(begin[m + 1], values.dtype)
    for i in range(n):
        for j in range(k):
            if values[i, j] != 0:
                at = begin[indices[i, j] + 1]
                begin[indices[i, j] + 1] += 1
                rows[at], sorted_values[at] = i, values[i, j]
    return begin[: m + 1], rows, sorted_values


@nb.njit(**fast)
def _backward_atoms(start, stop, begin, rows, values, grad, out):
    for latent in range(start, stop):
        a, b = begin[latent], begin[latent + 1]
        if a < b:
            _combine(values[a:b], rows[a:b], b - a, grad, out[latent])


def forward(values: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    out = torch.empty(len(values), atoms.shape[1], dtype=atoms.dtype)
    over(len(values), _forward, values, indices, atoms, out)
    return out


def backward_values(grad: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    out = torch.empty(indices.shape, dtype=atoms.dtype)
    over(len(grad), _backward_values, grad, indices, atoms, out)
    return out


def backward_atoms(grad: Tensor, values: Tensor, indices: Tensor, m: int) -> Tensor:
    """Each atom's gradient is summed by one thread, in the order of the rows: no atomics, and always the same sum."""
    grad = grad.contiguous()
    out = torch.from_numpy(np.zeros((m, grad.shape[1]), grad.numpy().dtype))  # memory that is not touched costs nothing
    begin, rows, by_latent = _by_latent(values.detach().contiguous().numpy(), indices.contiguous().numpy(), m)
    over(m, _backward_atoms, begin, rows, by_latent, grad, out)
    return out
