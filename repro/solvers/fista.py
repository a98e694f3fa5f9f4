"""FISTA with adaptive restart, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.solvers.base import DenseState, Solver, prox_step
from repro.solvers.ista import step_of
from repro.solvers.problem import Lasso


class FistaState(DenseState):
    """z [b, m], the extrapolated point y [b, m] and the momentum t [b, 1] of each row."""

    def __init__(self, problem: Lasso, z0: Tensor | SparseCodes | None):
        super().__init__(problem, z0)
        self.y = self.z.clone()
        self.t = torch.ones(problem.n, 1, dtype=problem.x.dtype, device=problem.device)


@dataclass(frozen=True)
class Fista(Solver):
    """Beck & Teboulle (2009): P(z) - P* <= 2 L ||z0 - z*||^2 / (k+1)^2; gradient restart of O'Donoghue & Candes (2015).

    A row restarts (t = 1) when its step points against its momentum, <y - z_new, z_new - z> > 0, which makes
    convergence linear near an optimum. Its step on a GPU is one fused kernel and a product.
    """

    step_size: float | None = None
    """The step; 1/L with the exact L if not given. Larger steps void the rate."""

    name: ClassVar[str] = "fista"
    check_every: ClassVar[int] = 10
    patience: ClassVar[int] = 20
    default_max_steps: ClassVar[int] = 10_000

    def init(self, problem: Lasso, z0: Tensor | SparseCodes | None = None) -> FistaState:
        return FistaState(problem, z0)

    def step(self, state: FistaState) -> None:
        z, y, t = state.z, state.y, state.t
        new = prox_step(state.problem, y, state.r, step_of(self.step_size, state.problem))
        move = new - z
        t_new = (1 + (1 + 4 * t.square()).sqrt()) / 2
        beta = (t - 1) / t_new
        against = y.sub_(new).mul_(move).sum(1, keepdim=True) > 0
        beta = torch.where(against, 0, beta)
        t_new = torch.where(against, 1, t_new)
        state.z, state.y, state.t = new, torch.addcmul(new, beta, move), t_new
