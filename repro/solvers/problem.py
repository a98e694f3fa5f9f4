"""Lasso, the problem that every solver takes, and Solution, what `solve` returns."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.solvers.objective import lipschitz

LARGEST, SMALLEST = 1e15, 1e-15
"""Values of float32 x and atoms beyond this are refused, and dictionaries below it: their squares leave float32."""


@dataclass(frozen=True)
class Lasso:
    """min over z of 1/2 ||x - z @ atoms||^2 + lam ||z||_1, row by row, z >= 0 if nonneg.

    x [n, d] and atoms [m, d] share a dtype (float32 or float64; half precision is raised to float32) and a device.
    lam is a number or a tensor [n] (kept in float64). Raises BadInput for shapes that do not fit, NaN, Inf,
    negative lam and values whose squares leave float32.
    """

    x: Tensor
    atoms: Tensor
    lam: float | Tensor
    nonneg: bool = True
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What solvers derive from the atoms alone; parts of a problem and with_lam share it."""

    def __post_init__(self) -> None:
        x, atoms = self._matrix(self.x, "x"), self._matrix(self.atoms, "atoms")
        if x.shape[1] != atoms.shape[1]:
            raise BadInput(
                f"x has width {x.shape[1]} and the atoms have width {atoms.shape[1]}; both are rows of the same space "
                "(atoms [m, d], as W_dec)."
            )
        if len(atoms) == 0 or atoms.shape[1] == 0:
            raise BadInput(
                f"A dictionary needs at least one atom of width at least one, not shape {tuple(atoms.shape)}."
            )
        if x.device != atoms.device or x.dtype != atoms.dtype:
            raise BadInput(
                f"x is {x.dtype} on {x.device} and the atoms are {atoms.dtype} on {atoms.device}; move them together "
                "with .to()."
            )
        lam = self.lam
        if isinstance(lam, Tensor) and lam.ndim == 0:
            lam = float(lam)
        elif isinstance(lam, Tensor):
            if lam.numel() not in (1, len(x)):
                raise BadInput(f"lam must be a number or one value per row ({len(x)}), not shape {tuple(lam.shape)}.")
            lam = lam.detach().to(device=x.device, dtype=torch.float64).reshape(-1).expand(len(x))
        values = torch.as_tensor(lam, dtype=torch.float64)
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise BadInput("lam must be finite and at least 0.")
        for name, value in (("x", x), ("atoms", atoms), ("lam", lam)):
            object.__setattr__(self, name, value)

    @staticmethod
    def _matrix(t: Tensor, name: str) -> Tensor:
        if not isinstance(t, Tensor) or t.ndim != 2:
            shape = tuple(t.shape) if hasattr(t, "shape") else type(t).__name__
            raise BadInput(f"{name} must be a tensor of two dimensions ([n, d] and [m, d]), not {shape}.")
        if not t.is_floating_point():
            raise BadInput(f"{name} must hold floating-point numbers, not {t.dtype}; use .float().")
        t = t.detach()
        if t.dtype not in (torch.float32, torch.float64):
            t = t.float()
        low, high = (float(v) for v in t.aminmax()) if t.numel() else (0.0, 0.0)  # NaN where there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            rows = int((~torch.isfinite(t).all(1)).sum())
            raise BadInput(f"{rows} of the {len(t)} rows of {name} hold NaN or Inf; drop them or collect them again.")
        largest = max(high, -low)
        if t.dtype == torch.float32 and (largest > LARGEST or (name == "atoms" and 0 < largest < SMALLEST)):
            raise BadInput(
                f"The largest value of {name} is {largest:.1e}, whose square leaves float32; rescale {name} and lam, "
                "or use float64."
            )
        return t.contiguous()

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def m(self) -> int:
        return self.atoms.shape[0]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def lipschitz(self) -> float:
        """||D||_2^2, exact; computed once a problem."""
        if "L" not in self.shared:
            self.shared["L"] = lipschitz(self.atoms)
        return float(self.shared["L"])

    def __getitem__(self, rows: slice | Tensor) -> Lasso:
        """The same problem for some rows; nothing is validated or computed again."""
        part = copy.copy(self)
        object.__setattr__(part, "x", self.x[rows])
        if isinstance(self.lam, Tensor):
            object.__setattr__(part, "lam", self.lam[rows])
        return part

    def with_lam(self, lam: float | Tensor) -> Lasso:
        """The same x and atoms at another lam."""
        return replace(self, lam=lam)


@dataclass(frozen=True)
class Solution:
    """Codes with a proof: for every row, dual <= optimum <= objective, and gap = objective - dual.

    objective, dual, gap: float64 [n]. steps: int64 [n], steps taken (iterations; outer passes of working_set).
    converged: bool [n], the gap met `tol`; all False where no tolerance was asked for, unless the gap is 0.
    """

    codes: SparseCodes
    objective: Tensor
    dual: Tensor
    gap: Tensor
    steps: Tensor
    converged: Tensor
    solver: str = ""
