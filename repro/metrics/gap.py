"""The amortization gap: how much worse codes are than the certified optimum, as a bracket per token."""

from __future__ import annotations

import torch
from torch import Tensor


def gap_summary(lower: Tensor, upper: Tensor) -> dict[str, float]:
    """Mean and median of the gap, taken from the upper end of the bracket, and the mean of both ends.

    lower = max(0, J(z) − J(z_s)) and upper = J(z) − dual(v_s), both [n] float64: the true gap of every token lies
    between them. The mean's `lower` and `upper` therefore bound the mean gap without any sampling argument.
    """
    if len(upper) == 0:
        return {f"amort_gap_{name}": float("nan") for name in ("mean", "median", "lower", "upper")}
    return {
        "amort_gap_mean": float(upper.mean()),
        "amort_gap_median": float(upper.median()),
        "amort_gap_lower": float(lower.mean()),
        "amort_gap_upper": float(upper.mean()),
    }


def bracket(objective: Tensor, solved: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """(lower, upper) of J(z) − J*, from J(z), the objective of a solution and the dual value that certifies it, [n]."""
    return (objective - solved).clamp(min=0), torch.maximum(objective - dual, torch.zeros_like(objective))
