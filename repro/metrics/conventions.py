"""Numbers that disagree: one reconstruction by every formula in use, and L0 and dead latents by number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.metrics.firing import Firing
from repro.sae import SAE

FORMULAS = {
    "FVE": ("1 − Σ‖e‖² / Σ‖x − μ‖²", "here, SAELens, 1 − FVU"),
    "FVE_centred": ("1 − Σ‖e − ν‖² / Σ‖x − μ‖²", "dictionary_learning"),
    "FVE_by_token": ("mean of 1−‖e‖² / ‖x−μ‖²", "SAEBench, SAELens legacy"),
    "FVE_by_dimension": ("mean FVE of a dimension", "scikit-learn's r2_score"),
    "FVE_uncentred": ("1 − Σ‖e‖² / Σ‖x‖²", "1 − NMSE, SAEBench core"),
    "FVU": ("Σ‖e‖² / Σ‖x − μ‖²", "sparsify"),
    "NMSE": ("Σ‖e‖² / Σ‖x‖²", "here, the paper"),
    "NMSE_by_token": ("mean of ‖e‖² / ‖x‖²", "OpenAI"),
    "MSE": ("mean of ‖e‖²", "SAELens"),
    "MSE_by_element": ("MSE / d", "torch's mse_loss"),
    "error_norm": ("mean of ‖e‖", "dictionary_learning's L2"),
}
"""Name -> its formula, and where it is in use. e = x − x̂ is a token's error; μ and ν are the means of x and of e over
tokens; sums and means without a word run over tokens."""


def by_formula(x: Tensor, x_hat: Tensor) -> dict[str, float]:
    """The value of each of `FORMULAS` for activations x and reconstructions x_hat [n, d], in float64."""
    wide, error = x.double(), (x - x_hat).double()
    centred = wide - wide.mean(0)
    sse, energy, variance = error.square().sum(), wide.square(), centred.square()
    by_dimension = 1 - error.square().sum(0) / variance.sum(0)
    values = {
        "FVE": 1 - sse / variance.sum(),
        "FVE_centred": 1 - (error - error.mean(0)).square().sum() / variance.sum(),
        "FVE_by_token": (1 - error.square().sum(1) / variance.sum(1)).mean(),
        "FVE_by_dimension": by_dimension[variance.sum(0) > 0].mean(),
        "FVE_uncentred": 1 - sse / energy.sum(),
        "FVU": sse / variance.sum(),
        "NMSE": sse / energy.sum(),
        "NMSE_by_token": (error.square().sum(1) / energy.sum(1)).mean(),
        "MSE": sse / len(x),
        "MSE_by_element": sse / x.numel(),
        "error_norm": error.norm(dim=1).mean(),
    }
    return {name: float(values[name]) for name in FORMULAS}


@torch.no_grad()
def by_tokens(
    sae: SAE, x: Tensor, counts: list[int], block: int | None = None
) -> tuple[list[dict[str, float]], Tensor]:
    """(tokens, L0 and dead_rate of the first so many rows of x [n, d] for each of the rising counts, x_hat [n, d])."""
    block = block or max(1, 2**25 // sae.config.m)
    rows: list[dict[str, float]] = []
    parts, total = [], None
    for start, stop in zip([0, *counts], counts):
        for part in x[start:stop].split(block):
            codes = sae.encode_sparse(part)
            parts.append(sae.decode(codes, part))
            total = Firing.of(codes) if total is None else total + Firing.of(codes)
        assert total is not None
        value = total.value()
        rows.append({"tokens": stop, "L0": value["L0"], "dead_rate": value["dead_rate"]})
    return rows, torch.cat(parts)


def token_counts(n: int) -> list[int]:
    """n and a quarter, a sixteenth and a sixty-fourth of it, rising, without 0."""
    return sorted({n // 4**i for i in range(4)} - {0})
