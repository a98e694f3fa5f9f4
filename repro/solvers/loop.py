"""The one loop: blocks of rows, a certificate every few steps, finished rows leave the block."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.codes import SparseCodes
from repro.solvers.fista import Fista
from repro.solvers.ista import Ista
from repro.solvers.objective import Certificate
from repro.solvers.problem import Lasso, Solution
from repro.solvers.pursuit import Pursuit
from repro.solvers.working_set import WorkingSet

SOLVERS: dict[str, Any] = {"ista": Ista, "fista": Fista, "working_set": WorkingSet, "pursuit": Pursuit}

AUTO = {"cpu": "working_set", "cuda": "fista"}
"""What "auto" is on a device. CUDA: not measured yet; `repro bench kernels --device cuda --only solve` decides it.
Without numba it is "fista" on a CPU too."""

Callback = Callable[[int, Tensor, Any], object]


@torch.no_grad()
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

    The certificate is float64 from a fresh residual (`objective.certify`), so gap >= P(z) - P* always holds.
    At lam = 0 it proves little unless x is fitted exactly: a residual is then dual feasible only when it is zero.
    """
    solver = pick(solver, problem)
    if max_steps is None:
        if tol is None:
            raise BadInput("Give a tolerance (tol) or a number of steps (max_steps).")
        max_steps = solver.default_max_steps
    if max_steps < 0 or (tol is not None and not tol >= 0):
        raise BadInput(f"max_steps and tol must be at least 0, not {max_steps} and {tol}.")
    if not proof and tol is not None:
        raise BadInput("A tolerance needs the certificate: leave proof=True, or give max_steps and tol=None.")
    z0 = _check_start(problem, z0)
    if block is None:
        block = solver.block(problem)
    parts = []
    for start in range(0, max(problem.n, 1), block):
        rows = torch.arange(start, min(start + block, problem.n), device=problem.device)
        first = None if z0 is None else z0[start : start + block]
        parts.append(_solve_block(problem[start : start + block], solver, first, max_steps, tol, callback, rows, proof))
    codes, fields = zip(*parts)
    objective, dual, gap, steps, converged = (torch.cat(f) for f in zip(*fields))
    return Solution(SparseCodes.cat(codes), objective, dual, gap, steps, converged, solver.name)


def pick(solver: str | Any, problem: Lasso) -> Any:
    """A solver from its name, or "auto", or itself."""
    if not isinstance(solver, str):
        return solver
    if solver == "auto":
        device = problem.device.type
        missing = device == "cpu" and importlib.util.find_spec("numba") is None
        solver = "fista" if missing else AUTO.get(device, "fista")
    if solver not in SOLVERS:
        raise BadInput(f"No solver '{solver}'{nearest(solver, SOLVERS)}; there are auto, {', '.join(SOLVERS)}.")
    return SOLVERS[solver]()


def _check_start(problem: Lasso, z0: Tensor | SparseCodes | None) -> Tensor | SparseCodes | None:
    if z0 is None:
        return None
    shape = (len(z0), z0.m) if isinstance(z0, SparseCodes) else tuple(z0.shape)
    if shape != (problem.n, problem.m):
        raise BadInput(f"z0 has shape {shape}; it must be [n, m] = {(problem.n, problem.m)}.")
    values = z0.values if isinstance(z0, SparseCodes) else z0
    if not bool(torch.isfinite(values).all()):
        raise BadInput("z0 holds NaN or Inf; start from finite codes or leave z0 out.")
    values = values.detach().to(device=problem.device, dtype=problem.x.dtype)
    return SparseCodes(values, z0.indices.to(problem.device), z0.m) if isinstance(z0, SparseCodes) else values


def _unknown(rows: Tensor) -> Certificate:
    """What is known of rows that nobody has certified."""
    return Certificate(*torch.full((3, len(rows)), torch.nan, dtype=torch.float64, device=rows.device))


def met(certificate: Certificate, x: Tensor, tol: float | None) -> Tensor:
    """Which rows meet the tolerance, [n]; None asks for an exact optimum."""
    tol = tol or 0.0
    energy = 0.5 * x.double().square().sum(1)
    return certificate.gap <= torch.maximum(tol * certificate.objective, tol**2 * energy)


def _solve_block(
    problem: Lasso,
    solver: Any,
    z0: Any,
    max_steps: int,
    tol: float | None,
    callback: Callback | None,
    rows: Tensor,
    proven: bool,
) -> tuple[SparseCodes, tuple[Tensor, ...]]:
    state = solver.init(problem, z0)
    x, left = problem.x, torch.arange(problem.n, device=problem.device)
    order: list[Tensor] = []
    codes, fields, step = [], [], 0
    best = torch.full((problem.n, 2), torch.inf, dtype=torch.float64, device=problem.device)
    waited = torch.zeros_like(left)
    while True:
        stop = callback is not None and bool(callback(step, rows[left], state))
        last = stop or step >= max_steps
        if last or (tol is not None and step % solver.check_every == 0):
            proof = state.certificate() if proven else _unknown(left)
            ok = met(proof, x[left], tol)
            now = torch.stack((proof.gap, proof.objective), 1)
            better = (now < best[left] * best.new_tensor([0.99, 1 - 1e-9])).any(1)
            best[left] = torch.minimum(best[left], now)
            waited[left] = torch.where(better, 0, waited[left] + 1)
            done = torch.ones_like(ok) if last else ok | (waited[left] >= solver.patience)
            if not order and bool(done.all()):  # all rows at once, in order: nothing to put together
                everything: tuple[Tensor, ...] = (*proof, torch.full_like(left, step), ok)
                return state.codes(), everything
            if last or not len(left) or bool(done.any()):
                codes.append(state.codes()[done])
                fields.append((*(f[done] for f in proof), torch.full_like(left[done], step), ok[done]))
                order.append(left[done])
                if bool(done.all()):
                    break
                left = left[~done]
                state.keep(~done)
        solver.step(state)
        step += 1
    back = torch.argsort(torch.cat(order))
    return SparseCodes.cat(codes)[back], tuple(torch.cat(f)[back] for f in zip(*fields))
