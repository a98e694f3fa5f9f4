"""Nulls of density: absorption of shuffled codes, and silent latents for a budget of firings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from repro.metrics import Firing
from repro.metrics.absorption import AUX
from repro.sae import SAE

REFERENCE_TOKENS = 20_000  # training tokens on which the encoder's firing rates are measured
SHUFFLES = 100


def null_curve(rate: Tensor) -> Tensor:
    """Absorption of independent latents that all fire on a share `rate` of the positives.

    (1 − p)(1 − (1 − p)^5): rises to 0.58 at p = 1 − 6^(−1/5) = 0.30, then falls to 0 as codes become dense.
    """
    return (1 - rate) * (1 - (1 - rate) ** AUX)


def shuffled_absorption(on: Sequence[Tensor], seed: int = 0) -> dict[str, float]:
    """Absorption when every latent keeps its firing rate on the positives but forgets which ones it fires on.

    on: a matrix [positives, 1 + AUX] bool a label, the main latent first. Returns the mean over labels as a 95 % range
    over shuffles, and the mean firing rate of those latents.
    """
    on = [o for o in on if len(o)]
    if not on:
        return dict.fromkeys(("absorption_shuffled_low", "absorption_shuffled_high", "absorption_rate"), float("nan"))
    g = torch.Generator().manual_seed(seed)
    draws = torch.zeros(SHUFFLES, dtype=torch.float64)
    for o in on:
        for part in torch.arange(SHUFFLES).split(max(1, 2**22 // o.numel())):
            order = torch.rand(len(part), *o.shape, generator=g).argsort(1)
            s = o.expand(len(part), -1, -1).gather(1, order)
            draws[part] += (~s[..., 0] & s[..., 1:].any(2)).double().mean(1) / len(on)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    rate = float(torch.stack([o.double().mean() for o in on]).mean())
    return {"absorption_shuffled_low": low, "absorption_shuffled_high": high, "absorption_rate": rate}


def reference_rates(sae: SAE, rows: Any, device: Any = "cpu") -> Tensor:
    """Firing rates [m] of the real encoder on training tokens spread over all, (fired + 1/2) / (n + 1)."""
    n = min(REFERENCE_TOKENS, rows.n)
    index = torch.linspace(0, rows.n - 1, n).long()
    size = max(128, 2**24 // sae.config.m)
    firing = reduce(add, (Firing.of(sae.encode_sparse(rows.read(i.numpy()).to(device))) for i in index.split(size)))
    return ((firing.fired.double() + 0.5) / (firing.n + 1)).cpu()


def expected_dead(rates: Tensor, fires: float, n: int) -> float:
    """Expected share of latents that stay silent on n tokens when `fires` of them fire a token, spread as `rates` are.

    Latent j fires with probability p_j = min(1, c·rates_j), c such that Σ p_j = fires, independently on every token:
    the mean of (1 − p_j)^n. It falls as `fires` grows, whatever the inference.
    """
    rates = rates.double()
    if fires <= 0:
        return 1.0
    if fires >= len(rates):
        return 0.0
    low, high = 0.0, 1.0
    while float((high * rates).clamp(max=1).sum()) < fires and high < 1e18:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        if float((middle * rates).clamp(max=1).sum()) < fires:
            low = middle
        else:
            high = middle
    p = (high * rates).clamp(max=1)
    return float((n * torch.log1p(-p)).exp().mean())
