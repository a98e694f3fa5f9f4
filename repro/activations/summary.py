"""Summary of all activations for the manifest: mean, scale, norms."""

from __future__ import annotations

from typing import Any

import numpy as np


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


def describe_norms(norms: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Median, maximum and tail of the norms [S, T] of real tokens (4 bytes each in memory), and those at position 0."""
    real = norms[mask]
    median = float(np.median(real))
    return {
        "median": median,
        "max": float(real.max()),
        "median_at_position_0": float(np.median(norms[:, 0])),
        "share_above_5_medians": int((real > 5 * median).sum()) / real.size,
    }
