"""Orthogonal matching pursuit as a solver of SOLVERS: plain torch, least squares afresh in each step.

`pursuit` computes the same codes faster; this is what it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.solvers.base import Solver, State
from repro.solvers.problem import Lasso
from repro.solvers.refit import least_squares


class PursuitState(State):
    """k slots a row: atoms S [b, k], codes u [b, k], which slots are in use; Gram matrices in float64."""

    def __init__(self, problem: Lasso, k: int):
        self.problem = problem
        b = problem.n
        self.S = torch.zeros(b, k, dtype=torch.long, device=problem.device)
        self.u = torch.zeros(b, k, dtype=torch.float64, device=problem.device)
        self.used = torch.zeros(b, k, dtype=torch.bool, device=problem.device)
        self.G = torch.zeros(b, k, k, dtype=torch.float64, device=problem.device)
        self.b = torch.zeros(b, k, dtype=torch.float64, device=problem.device)
        self.A = torch.zeros(b, k, problem.x.shape[1], dtype=torch.float64, device=problem.device)
        self.r = problem.x.clone()

    def place(self, atoms: Tensor, which: Tensor) -> None:
        """Put the atoms [b, t] for which `which` [b, t] is True into free slots, with code 0."""
        p, t = self.problem, atoms.shape[1]
        free = (~self.used).to(torch.int8).topk(t, dim=1).indices  # which is False where no slot is free
        which = which & ~self.used.gather(1, free)
        self.S.scatter_(1, free, torch.where(which, atoms, self.S.gather(1, free)))
        self.used.scatter_(1, free, which | self.used.gather(1, free))
        index = free.unsqueeze(2).expand(-1, -1, self.A.shape[2])
        new = torch.where(which.unsqueeze(2), p.atoms[atoms].double(), self.A.gather(1, index))
        self.A.scatter_(1, index, new)
        rows = new @ self.A.mT
        index = free.unsqueeze(2).expand_as(rows)
        self.G.scatter_(1, index, rows)
        self.G.scatter_(2, index.mT, rows.mT)
        self.b.scatter_(1, free, (new @ p.x.double().unsqueeze(2)).squeeze(2))

    def fit(self) -> None:
        """Least squares on the slots in use, and the residual that it leaves."""
        p = self.problem
        self.u, self.used = least_squares(self.G, self.b, self.u, self.used, p.nonneg)
        self.r = (p.x.double() - (self.u.unsqueeze(1) @ self.A).squeeze(1)).to(p.x.dtype)

    def codes(self) -> SparseCodes:
        values = torch.where(self.used, self.u, 0).to(self.problem.x.dtype)
        return SparseCodes.packed(values, self.S, self.problem.m)


@dataclass(frozen=True)
class Pursuit(Solver):
    """Orthogonal matching pursuit (Pati et al. 1993), nonnegative as Bruckstein, Elad & Zibulevsky (2008).

    A step adds the atoms that correlate most with the residual and solves least squares on the support; nonnegative
    problems drop atoms on the way there, as the inner loop of Lawson & Hanson does. It starts from zero, whatever z0.
    """

    k: int = 32
    """Nonzeros a row may have."""
    per_step: int = 1
    """Atoms added in one step."""

    name: ClassVar[str] = "pursuit"
    check_every: ClassVar[int] = 1
    patience: ClassVar[int] = 1_000_000  # its codes do not aim at the LASSO, whose gap need not fall

    @property
    def default_max_steps(self) -> int:  # type: ignore[override]
        return -(-self.k // self.per_step)

    def block(self, problem: Lasso) -> int:
        k, d = self.k, problem.x.shape[1]
        return max(1, min(2**22 // problem.m, 2**24 // (k * (d + k))))

    def init(self, problem: Lasso, z0: Tensor | SparseCodes | None = None) -> PursuitState:
        if self.k < 1 or self.per_step < 1:
            raise BadInput(f"Pursuit needs k >= 1 and per_step >= 1, not {self.k} and {self.per_step}.")
        return PursuitState(problem, min(self.k, problem.m))

    def step(self, state: PursuitState) -> None:
        p, k = state.problem, state.S.shape[1]
        c = state.r @ p.atoms.T
        if "norms" not in p.shared:
            p.shared["norms"] = p.atoms.norm(dim=1)
        norms = p.shared["norms"]
        c = (c if p.nonneg else c.abs_()) / norms.clamp_min(torch.finfo(c.dtype).tiny)
        c = torch.nn.functional.pad(c, (0, 1)).scatter_(1, torch.where(state.used, state.S, p.m), -torch.inf)[:, : p.m]
        value, best = c.topk(min(self.per_step, k), dim=1)
        room = (k - state.used.sum(1, keepdim=True)) > torch.arange(best.shape[1], device=c.device)
        noise = 1e-6 * p.x.norm(dim=1, keepdim=True)
        state.place(best, room & (value > noise))
        state.fit()
