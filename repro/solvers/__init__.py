"""`solve`: the optimal code of each token, with a certificate; one file for each solver.

    problem = Lasso(x, atoms, lam, nonneg=True)
    solution = solve(problem, "auto", tol=1e-4)       # codes, objective, dual, gap, steps, converged
    solve(problem, "ista", z0=z, max_steps=30, tol=None)  # exactly 30 published steps from z

Adding a solver is one file with a frozen dataclass (`init`, `step`) and one entry of SOLVERS.
"""

from repro.solvers.fista import Fista
from repro.solvers.ista import Ista
from repro.solvers.loop import SOLVERS, solve
from repro.solvers.problem import Lasso, Solution
from repro.solvers.pursuit import Pursuit, pursuit
from repro.solvers.refit import refit
from repro.solvers.working_set import WorkingSet

__all__ = ["SOLVERS", "Fista", "Ista", "Lasso", "Pursuit", "Solution", "WorkingSet", "pursuit", "refit", "solve"]
