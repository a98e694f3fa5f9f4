"""ISTA, the iteration that the paper publishes: the readable reference, and "k steps from the encoder's code"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from repro.solvers.base import DenseState, Solver, prox_step
from repro.solvers.problem import Lasso


@dataclass(frozen=True)
class Ista(Solver):
    """z <- prox_{a lam}(z - a (z D - x) D^T), a = 1/L; P(z) - P* <= L ||z0 - z*||^2 / (2k) (Beck & Teboulle 2009)."""

    step_size: float | None = None
    """The step a; 1/L with the exact L if not given. The released code uses 1 / (||D||_2^2 + 1e-6)."""

    name: ClassVar[str] = "ista"

    def step(self, state: DenseState) -> None:
        a = step_of(self.step_size, state.problem)
        state.z = prox_step(state.problem, state.z, state.r, a, out=state.z)


def step_of(step_size: float | None, problem: Lasso) -> float:
    """The given step, else 1/L (1 for a dictionary of zeros, where every step is right)."""
    if step_size is not None:
        return step_size
    return 1 / problem.lipschitz if problem.lipschitz > 0 else 1.0
