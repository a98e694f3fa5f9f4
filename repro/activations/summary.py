"""What the manifest says of all activations together, computed in bounded memory: mean, scale, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

HALF = 2**16


def moments(x: np.ndarray) -> np.ndarray:
    """Rows [n, d], zeros where padded -> their sum and, last, the sum of their squares, [d + 1] float64."""
    rows = x.reshape(-1, x.shape[-1])
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return np.append(rows.sum(0, dtype=np.float64), squares.sum())


def mean_and_scale(parts: np.ndarray, tokens: int) -> dict[str, Any]:
    """Moments of batches [batches, d + 1] -> mean [d] and scale = sqrt(mean |x|^2) over the tokens."""
    total = np.zeros(parts.shape[1])
    for part in parts:  # one after the other, so that the result does not depend on how numpy adds up
        total += part
    return {"mean": (total[:-1] / tokens).tolist(), "scale": float(np.sqrt(total[-1] / tokens))}


def describe_norms(kept: Callable[[], Iterator[np.ndarray]], first: np.ndarray) -> dict[str, float]:
    """Norms of the real tokens, in blocks that can be read again and again, and of those at position 0."""
    median = exact_median(kept)
    n = above = 0
    largest = 0.0
    for block in kept():
        n += block.size
        above += int((block > 5 * median).sum())
        largest = max(largest, float(block.max(initial=0.0)))
    return {
        "median": median,
        "max": largest,
        "median_at_position_0": float(np.median(first)),
        "share_above_5_medians": above / n,
    }


def exact_median(blocks: Callable[[], Iterator[np.ndarray]]) -> float:
    """Median of nonnegative float32 numbers in two passes, by their bits: nonnegative floats sort as integers do."""
    high = np.zeros(HALF, np.int64)
    for block in blocks():
        high += np.bincount(_bits(block) >> 16, minlength=HALF)
    n = int(high.sum())
    ranks = [(n - 1) // 2, n // 2]
    bins = np.searchsorted(np.cumsum(high), ranks, "right")
    low = {int(b): np.zeros(HALF, np.int64) for b in bins}
    for block in blocks():
        bits = _bits(block)
        for b, counts in low.items():
            counts += np.bincount(bits[bits >> 16 == b] & (HALF - 1), minlength=HALF)
    middle = []
    for rank, b in zip(ranks, bins.tolist()):
        before = int(high[:b].sum())
        middle.append(b << 16 | int(np.searchsorted(np.cumsum(low[b]), rank - before, "right")))
    return float(np.mean(np.array(middle, np.uint32).view(np.float32)))


def _bits(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block, np.float32).view(np.uint32).astype(np.int64)
