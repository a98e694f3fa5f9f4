"""Firing of latents: L0, dead and dense latents, and the moments that probes are ordered by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro import ops
from repro.base.sums import Sums
from repro.codes import SparseCodes

DEAD_RATE = 1e-6  # a latent is dead if it fires on at most this share of the evaluated tokens (released code)


@dataclass(frozen=True)
class Firing(Sums):
    """Counts over tokens of positive codes, per latent."""

    n: int
    fired: Tensor
    """Tokens on which each latent is > 0, [m] int64."""
    nonzeros: int
    """Nonzero entries, of either sign: n · mean L0."""

    @classmethod
    def of(cls, codes: SparseCodes) -> Firing:
        return cls(len(codes), ops.firing_stats(codes).fired, int(codes.l0.sum()))

    @property
    def rate(self) -> Tensor:
        """Firing rate of each latent, [m] float64."""
        return self.fired.double() / max(self.n, 1)

    def value(self) -> dict[str, float]:
        """L0 = mean nonzeros a token; dead_rate, dense@0.1, dense@0.2 = shares of the m latents."""
        rate = self.rate
        return {
            "L0": self.nonzeros / max(self.n, 1),
            "dead_rate": float((rate <= DEAD_RATE).double().mean()),
            "dense@0.1": float((rate >= 0.1).double().mean()),
            "dense@0.2": float((rate >= 0.2).double().mean()),
        }


def deviation(n: Any, z: Tensor, zz: Tensor) -> Tensor:
    """Population standard deviation from Σ1, Σz and Σz²; shapes broadcast."""
    return (zz / n - (z / n).square()).clamp(min=0).sqrt()


def correlation(n: Any, z: Tensor, zz: Tensor, zy: Tensor, y: Any) -> Tensor:
    """Pearson r of z-scored latents with a label in {0, 1}, from Σ1, Σz, Σz², Σzy and Σy; shapes broadcast.

    With the released code's guards of 1e-6.
    """
    p, std = y / n, deviation(n, z, zz)
    scaled = std / (std + 1e-6)
    return (zy / n - z / n * p) / (std + 1e-6) / (scaled * ((p * (1 - p)) ** 0.5 + 1e-6) + 1e-6)


@dataclass(frozen=True)
class Moments(Sums):
    """Σz, Σz², Σzy per latent over rows of positive codes, float64: all that ordering by correlation needs."""

    n: int
    z: Tensor
    """Σ max(z, 0), [m]."""
    zz: Tensor
    """Σ max(z, 0)², [m]."""
    zy: Tensor
    """Σ max(z, 0)·y, [m]."""
    y: float
    """Σy of a label in {0, 1}."""

    @classmethod
    def of(cls, codes: SparseCodes, y: Tensor) -> Moments:
        sums = ops.firing_stats(codes, y)
        return cls(len(codes), sums.z, sums.zz, sums.zy, float(y.double().sum()))

    @property
    def mean(self) -> Tensor:
        return self.z / max(self.n, 1)

    @property
    def std(self) -> Tensor:
        """Population standard deviation of each latent, [m]."""
        return deviation(max(self.n, 1), self.z, self.zz)

    def correlation(self) -> Tensor:
        """`correlation` of each latent with y, [m]."""
        return correlation(max(self.n, 1), self.z, self.zz, self.zy, self.y)

    def order(self) -> Tensor:
        """Latents by falling |r|, ties (to 12 digits, below which sums depend on their order) by index, [m]."""
        return torch.argsort(-self.correlation().abs().round(decimals=12), stable=True)
