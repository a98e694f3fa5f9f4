"""Encoding with selection compiled for the CPU: the product is torch's. Twin: reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from repro.kernels.cpu.threads import over
from repro.kernels.reference import in_blocks

LANES = (64, 32, 16, 8)  # scores that are passed over together when their largest is not large enough
LANES_A_K = 4  # lanes wanted for each of the k; then about 1.15 k scores exceed the k-th largest maximum of a lane

fast: dict[str, Any] = {"cache": True, "nogil": True}


@nb.njit(**fast)
def _maxima(bits, lane, best):
    """Largest of each lane and 0, by bit pattern: positive floats sort as their bits do, and integers vectorise."""
    for g in range(best.size):
        part, top = bits[g * lane : (g + 1) * lane], bits.dtype.type(0)
        for j in range(part.size):
            top = max(top, part[j])
        best[g] = top


@nb.njit(**fast)
def _above_in(bits, lane, best, tau, first, found, column):
    """Collect scores > tau >= 0 with their columns, from lanes whose largest is; returns how many."""
    count = 0
    for g in range(best.size):
        if best[g] > tau:
            part = bits[g * lane : (g + 1) * lane]
            for j in range(part.size):
                if part[j] > tau:
                    found[count], column[count] = part[j], first + g * lane + j
                    count += 1
    return count


@nb.njit(**fast)
def _kth_largest(v, k):
    """The k-th largest of v, which is reordered: Hoare's quickselect, because numba's partition compiles for ages."""
    low, high, goal = 0, v.size - 1, v.size - k
    while low < high:
        pivot, i, j = v[(low + high) // 2], low, high
        while i <= j:
            while v[i] < pivot:
                i += 1
            while v[j] > pivot:
                j -= 1
            if i <= j:
                v[i], v[j] = v[j], v[i]
                i, j = i + 1, j - 1
        if goal <= j:
            high = j
        elif goal >= i:
            low = i
        else:
            break
    return v[goal]


@nb.njit(**fast)
def _keep(found, column, count, k, values, indices):
    """Copy the k largest of `count` candidates in order, the leftmost of equal ones; all if they are no more than k."""
    if count <= k:
        values[:count], indices[:count] = found[:count], column[:count]
        return count
    least = _kth_largest(found[:count].copy(), k)
    larger = 0
    for c in range(count):
        larger += found[c] > least
    kept, ties = 0, k - larger
    for c in range(count):
        equal = found[c] == least
        if found[c] > least or (equal and ties > 0):
            ties -= equal
            values[kept], indices[kept] = found[c], column[c]
            kept += 1
    return k


@nb.njit(**fast)
def _top_k(start, stop, bits, ends, ks, lanes, values, indices, l0):
    """Row by row, group by group: the k-th largest of the lanes' maxima is a lower bound of the k-th largest score."""
    m = bits.shape[1]
    found, column = np.empty(m, bits.dtype), np.empty(m, np.int64)
    maxima, order = np.empty(m, bits.dtype), np.empty(m, bits.dtype)
    for i in range(start, stop):
        at = 0
        for g in range(ks.size):
            k, lane, row = ks[g], lanes[g], bits[i, ends[g] : ends[g + 1]]
            size = (row.size + lane - 1) // lane
            best, tau = maxima[:size], bits.dtype.type(0)
            _maxima(row, lane, best)
            if size >= k:
                order[:size] = best
                tau = max(tau, _kth_largest(order[:size], k) - 1)
            count = _above_in(row, lane, best, tau, ends[g], found, column)
            at += _keep(found, column, count, k, values[i, at:], indices[i, at:])
        values[i, at:], indices[i, at:], l0[i] = 0, 0, at


@nb.njit(**fast)
def _count_above(start, stop, pre, tau, l0):
    for i in range(start, stop):
        row, count = pre[i], 0
        for j in range(row.size):
            count += row[j] > tau
        l0[i] = count


@nb.njit(**fast)
def _above(start, stop, bits, lane, tau, values, indices):
    m = bits.shape[1]
    best = np.empty((m + lane - 1) // lane, bits.dtype)
    for i in range(start, stop):
        _maxima(bits[i], lane, best)
        count = _above_in(bits[i], lane, best, tau, 0, values[i], indices[i])
        values[i, count:], indices[i, count:] = 0, 0


@nb.njit(**fast)
def _count_gated(start, stop, pre, gate, scale, shift, l0):
    for i in range(start, stop):
        row, count = pre[i], 0
        for j in range(row.size):
            count += (row[j] > gate[j]) & (scale[j] * row[j] + shift[j] > 0)
        l0[i] = count


@nb.njit(**fast)
def _gated(start, stop, pre, gate, scale, shift, lane, values, indices):
    """Lane by lane: how many gates are open, which vectorises, then which, where there are any."""
    for i in range(start, stop):
        row, at = pre[i], 0
        for first in range(0, row.size, lane):
            part, least, some = row[first : first + lane], gate[first : first + lane], np.int32(0)
            for j in range(part.size):
                some += np.int32(part[j] > least[j])
            if some > 0:
                for j in range(part.size):
                    if part[j] > least[j]:
                        z = scale[first + j] * part[j] + shift[first + j]
                        if z > 0:
                            values[i, at], indices[i, at] = z, first + j
                            at += 1
        values[i, at:], indices[i, at:] = 0, 0


def _bits(t: Tensor) -> Tensor:
    return t.view(torch.int32 if t.dtype == torch.float32 else torch.int64)


def _width(l0: Tensor) -> int:
    return max(1, int(l0.max()) if len(l0) else 1)


def top_k(
    x: Tensor, W: Tensor, b: Tensor, sizes: Sequence[int], ks: Sequence[int], precision: str
) -> tuple[Tensor, Tensor]:
    """ReLU of the ks[g] largest of each row of x @ W + b in every group g; of equal ones the leftmost."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    lanes = np.array([next((a for a in LANES if LANES_A_K * k * a <= m), LANES[-1]) for m, k in zip(sizes, ks)])

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.empty(len(pre), sum(ks), dtype=pre.dtype)
        indices, l0 = torch.empty_like(values, dtype=torch.long), torch.empty(len(pre), dtype=torch.long)
        over(len(pre), _top_k, _bits(pre), ends, np.array(ks), lanes, _bits(values), indices, l0)
        return values[:, : _width(l0)], indices[:, : _width(l0)]

    return in_blocks(x, W, b, precision, select)


def above(x: Tensor, W: Tensor, b: Tensor, threshold: float, precision: str) -> tuple[Tensor, Tensor]:
    """The entries of x @ W + b above max(threshold, 0), strictly; counted first, then copied."""

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        # max(0.0, -0.0) is 0.0, the other way round it is -0.0, whose bits sort below every score
        tau, l0 = pre.new_tensor([max(0.0, threshold)]), torch.empty(len(pre), dtype=torch.long)
        over(len(pre), _count_above, pre, tau.numpy()[0], l0)
        values = torch.empty(len(pre), _width(l0), dtype=pre.dtype)
        indices = torch.empty_like(values, dtype=torch.long)
        over(len(pre), _above, _bits(pre), LANES[0], _bits(tau).numpy()[0], _bits(values), indices)
        return values, indices

    return in_blocks(x, W, b, precision, select)


def gated(
    x: Tensor, W: Tensor, b: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """1[p > gate] ReLU(scale p + shift) of p = x @ W + b; gate, scale and shift [m]. Counted first, then copied."""

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        l0 = torch.empty(len(pre), dtype=torch.long)
        over(len(pre), _count_gated, pre, gate, scale, shift, l0)
        values = torch.empty(len(pre), _width(l0), dtype=pre.dtype)
        indices = torch.empty_like(values, dtype=torch.long)
        over(len(pre), _gated, pre, gate, scale, shift, LANES[0], values, indices)
        return values, indices

    return in_blocks(x, W, b, precision, select)
