"""The two parts of a solver: a frozen dataclass with `init` and `step`, and the state that it advances in place."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from repro import ops
from repro.codes import SparseCodes
from repro.solvers.objective import Certificate, certify
from repro.solvers.problem import Lasso


class State:
    """The rows still being solved: the problem [b] and what a solver's steps need, tensors [b, ...]."""

    problem: Lasso

    def codes(self) -> SparseCodes:
        """The codes as they stand, [b, m]."""
        raise NotImplementedError

    def certificate(self) -> Certificate:
        """What is proven of these codes, from a fresh residual in float64."""
        p = self.problem
        return certify(p.x, self.codes(), p.atoms, p.lam, p.nonneg)

    def keep(self, rows: Tensor) -> None:
        """Drop the rows where the mask `rows` [b] is False."""
        b = len(rows)
        self.problem = self.problem[rows]
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.ndim and len(value) == b:
                setattr(self, name, value[rows])


def dense_block(problem: Lasso) -> int:
    """Rows for which block * m stays near 4 million numbers (CUDA: 256 million)."""
    return max(1, (2**28 if problem.device.type == "cuda" else 2**22) // problem.m)


def largest_codes(problem: Lasso, z0: Tensor | SparseCodes | None) -> SparseCodes:
    """A start without what no optimum needs: the d largest codes of each row, of feasible sign."""
    if z0 is None:
        z0 = problem.x.new_zeros(problem.n, 1)
        return SparseCodes(z0, z0.long(), problem.m)
    z0 = z0 if isinstance(z0, SparseCodes) else SparseCodes.from_dense(z0)
    size = z0.values.clamp_min(0) if problem.nonneg else z0.values.abs()
    size, slots = size.topk(min(size.shape[1], problem.x.shape[1], problem.m), dim=1)
    return SparseCodes(torch.where(size > 0, z0.values.gather(1, slots), 0), z0.indices.gather(1, slots), problem.m)


class DenseState(State):
    """Dense codes z [b, m] of a block, and memory r [b, d] for their residuals."""

    def __init__(self, problem: Lasso, z0: Tensor | SparseCodes | None):
        self.problem = problem
        if z0 is None:
            self.z = torch.zeros(problem.n, problem.m, dtype=problem.x.dtype, device=problem.device)
        else:
            self.z = z0.to_dense() if isinstance(z0, SparseCodes) else z0.clone()
        self.r = torch.empty_like(problem.x)

    def codes(self) -> SparseCodes:
        return SparseCodes.from_dense(self.z)

    def certificate(self) -> Certificate:
        p = self.problem
        return certify(p.x, self.z, p.atoms, p.lam, p.nonneg)


class Solver:
    """Base of the solvers: frozen dataclasses that override `step`, and what else differs. These are ISTA's choices."""

    name: ClassVar[str] = ""
    check_every: ClassVar[int] = 20
    """Steps between two certificates while a tolerance is asked for."""
    patience: ClassVar[int] = 10
    """Certificates without progress before a row is given up, at the limit of its precision."""
    default_max_steps: ClassVar[int] = 20_000

    def block(self, problem: Lasso) -> int:
        """Rows that are solved together."""
        return dense_block(problem)

    def init(self, problem: Lasso, z0: Tensor | SparseCodes | None = None) -> Any:
        """The state of one block of rows, from z0 (dense [b, m] or SparseCodes; None for zero)."""
        return DenseState(problem, z0)

    def step(self, state: Any) -> None:
        """Advance the state in place."""
        raise NotImplementedError


def prox_step(problem: Lasso, y: Tensor, r: Tensor, step: float, out: Tensor | None = None) -> Tensor:
    """prox_{step lam}(y + step (x - y D) D^T): two matrix products; `out` may be overwritten (y, if it is used up).

    r [b, d] is overwritten with the residual at y.
    """
    torch.addmm(problem.x, y, problem.atoms, alpha=-1, out=r)
    return ops.prox_step(y, r, problem.atoms, problem.lam, step, problem.nonneg, out=out)
