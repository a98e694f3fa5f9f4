"""The one loop: blocks of rows, a certificate every few steps, finished rows leave the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes, gathered
from repro.solvers.objective import Certificate
from repro.solvers.problem import Lasso, Solution

Callback = Callable[[int, Tensor, Any], object]


@torch.no_grad()
def iterate(
    problem: Lasso,
    solver: Any,
    z0: Tensor | SparseCodes | None = None,
    max_steps: int | None = None,
    tol: float | None = 1e-4,
    callback: Callback | None = None,
    block: int | None = None,
    proof: bool = True,
) -> Solution:
    """Run a solver on the problem, block by block; `repro.solvers.solve` says what the arguments mean."""
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
    fields = []

    def solved() -> Iterator[SparseCodes]:
        for start in range(0, max(problem.n, 1), block):
            part = problem[start : start + block]
            rows = torch.arange(start, start + part.n, device=problem.device)
            first = None if z0 is None else z0[start : start + block]
            codes, proofs = _solve_block(part, solver, first, max_steps, tol, callback, rows, proof)
            fields.append(proofs)
            yield codes

    codes = gathered(solved())
    objective, dual, gap, steps, converged = (torch.cat(f) for f in zip(*fields))
    return Solution(codes, objective, dual, gap, steps, converged, solver.name)


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
    """The certificate of rows [b] that were not certified: NaN."""
    return Certificate(*torch.full((3, len(rows)), torch.nan, dtype=torch.float64, device=rows.device))


def met(certificate: Certificate, x: Tensor, tol: float | None) -> Tensor:
    """Mask [n] of the rows that meet the tolerance; None asks for an exact optimum."""
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
    proof: bool,
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
            certificate = state.certificate() if proof else _unknown(left)
            ok = met(certificate, x[left], tol)
            now = torch.stack((certificate.gap, certificate.objective), 1)
            better = (now < best[left] * best.new_tensor([0.99, 1 - 1e-9])).any(1)
            best[left] = torch.minimum(best[left], now)
            waited[left] = torch.where(better, 0, waited[left] + 1)
            done = torch.ones_like(ok) if last else ok | (waited[left] >= solver.patience)
            if not order and bool(done.all()):  # all rows at once, in order: nothing to put together
                return state.codes(), (*certificate, torch.full_like(left, step), ok)
            if last or not len(left) or bool(done.any()):
                codes.append(state.codes()[done])
                fields.append((*(f[done] for f in certificate), torch.full_like(left[done], step), ok[done]))
                order.append(left[done])
                if bool(done.all()):
                    break
                left = left[~done]
                state.keep(~done)
        solver.step(state)
        step += 1
    back = torch.argsort(torch.cat(order))
    return SparseCodes.cat(codes)[back], tuple(torch.cat(f)[back] for f in zip(*fields))
