"""Certified sparse inference: problems, solvers by name, and `solve`, which runs any of them.

    problem = Lasso(x, atoms, lam, nonneg=True)
    solution = solve(problem, "auto", tol=1e-4)       # codes, objective, dual, gap, steps, converged
    solve(problem, "ista", z0=z, max_steps=30, tol=None)  # exactly 30 published steps from z

Adding a solver is one file with a frozen dataclass (`init`, `step`) and one entry of SOLVERS.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.codes import SparseCodes
from repro.solvers.fista import Fista
from repro.solvers.ista import Ista
from repro.solvers.loop import Callback, iterate
from repro.solvers.omp import Pursuit
from repro.solvers.problem import Lasso, Solution
from repro.solvers.pursuit import PURSUITS, pursuit
from repro.solvers.refit import refit
from repro.solvers.working_set import WorkingSet

__all__ = [
    "AUTO", "PURSUITS", "SOLVERS", "Fista", "Ista", "Lasso", "Pursuit", "Solution", "WorkingSet", "pursuit", "refit",
    "solve",
]  # fmt: skip

SOLVERS: dict[str, Any] = {"ista": Ista, "fista": Fista, "working_set": WorkingSet, "pursuit": Pursuit}

AUTO = {"cpu": "working_set", "cuda": "fista"}
"""The solver that "auto" names on a device. The second is a guess until `repro bench solvers` has run on a GPU. Without
numba it is "fista" on a CPU too."""


def solve(
    problem: Lasso,
    solver: str | Any = "auto",
    z0: Tensor | SparseCodes | None = None,
    max_steps: int | None = None,
    tol: float | None = 1e-4,
    callback: Callback | None = None,
    block: int | None = None,
    proof: bool = True,
) -> Solution:
    """Solve every row of the problem to a certified gap, or take exactly `max_steps` steps.

    solver: a name in SOLVERS, "auto" (the fastest one that certifies on this device), or an instance such as
    Ista(step_size=0.1). z0: where to start, dense [n, m] or SparseCodes; zero if not given.
    tol: a row is finished when gap <= tol * P(z), or gap <= tol^2 * 1/2 ||x||^2 (where P* is almost zero);
    tol=None takes exactly max_steps steps on every row. max_steps: the limit; the solver's own if not given.
    callback(step, rows, state): called before the first and after each step of a block, with the row numbers that are
    still active and the state (state.codes(), state.certificate()); a true return value ends the block there.
    block: rows solved together; by default the solver's choice, which keeps block * m bounded (`Solver.block`).
    proof: False leaves out the certificate of an exact number of steps (tol=None), which costs several of them;
    objective, dual and gap are then NaN.

    Objective, dual and gap are float64, from a residual that is computed afresh from the codes: gap >= P(z) - P*.
    `objective.certify` computes them, which knows nothing of the solver, except for working_set. That solver computes
    them in its own passes, because a second product of the residuals with all atoms would cost it one more pass of
    the few that it takes. Tests compare them with `certify`. To check a solution again:
    certify(problem.x, solution.codes, problem.atoms, problem.lam, problem.nonneg).
    At lam = 0 a certificate proves little unless x is fitted exactly: only a residual of zero is then dual feasible.
    """
    return iterate(problem, _solver(solver, problem.device), z0, max_steps, tol, callback, block, proof)


def _solver(solver: str | Any, device: torch.device) -> Any:
    """The solver of this name, or the instance itself."""
    if not isinstance(solver, str):
        return solver
    if solver == "auto":
        missing = device.type == "cpu" and importlib.util.find_spec("numba") is None
        solver = "fista" if missing else AUTO.get(device.type, "fista")
    if solver not in SOLVERS:
        raise BadInput(f"No solver '{solver}'{nearest(solver, SOLVERS)}; there are auto, {', '.join(SOLVERS)}.")
    return SOLVERS[solver]()
