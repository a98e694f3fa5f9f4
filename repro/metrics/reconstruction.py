"""Error of the reconstruction: NMSE and FVE, as sums that add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repro.base.sums import Sums


@dataclass(frozen=True)
class Reconstruction(Sums):
    """Sums over tokens behind NMSE and FVE, float64."""

    n: int
    sse: float
    """Σ‖x − x̂‖²."""
    sxx: float
    """Σ‖x‖²."""
    sx: Tensor
    """Σx, [d]."""

    @classmethod
    def of(cls, x: Tensor, x_hat: Tensor) -> Reconstruction:
        """x and x_hat [n, d]; everything is summed in float64."""
        error = (x - x_hat).double()
        wide = x.double()
        return cls(len(x), float(error.square().sum()), float(wide.square().sum()), wide.sum(0))

    def value(self) -> dict[str, float]:
        """NMSE = Σ‖x − x̂‖² / Σ‖x‖² (the paper's, uncentred); FVE = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ over these tokens."""
        nan = float("nan")
        centred = self.sxx - float(self.sx.square().sum()) / max(self.n, 1)
        return {
            "NMSE": self.sse / self.sxx if self.sxx > 0 else nan,
            "FVE": 1 - self.sse / centred if centred > 0 else nan,
        }


def fve(x: Tensor, x_hat: Tensor) -> float:
    """Fraction of variance explained of one block, for progress bars and checks."""
    with torch.no_grad():
        return Reconstruction.of(x, x_hat).value()["FVE"]
