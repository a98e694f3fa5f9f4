"""The lambda at which codes have a given mean L0, by bisection and secants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.inference.names import SEMI_STEPS, check_mode
from repro.sae import SAE
from repro.solvers import Lasso, solve
from repro.solvers.objective import lambda_max

CALIBRATION_TOKENS = 1000
FEW = 128  # of them, on which the search for lambda begins
FEW_CALLS, CALLS = 20, 40  # mean L0s that each of both searches may compute


def spread(n: int, size: int) -> Tensor:
    """At most `size` row numbers spread evenly over n rows."""
    return torch.arange(n) if n <= size else torch.linspace(0, n - 1, size).long()


@torch.no_grad()
def calibrate_lambda(
    sae: SAE,
    x: Tensor,
    target_l0: float,
    mode: str = "non",
    steps: int | None = None,
    tol: float = 0.02,
    *,
    solve_tol: float = 1e-3,
    nonneg: bool = True,
    shared: dict[str, Any] | None = None,
) -> float:
    """The lambda at which codes of x [n, d] have a mean L0 of target_l0, to a relative error of tol.

    A search in log lambda between 1e-6 and 1 times the largest lambda_max, at the very steps that are used
    afterwards: mode "semi" takes `steps` (30) ISTA steps from the encoder's code, "non" solves to `solve_tol` (or takes
    `steps` from zero), cold. It begins at what a search on 128 of the tokens finds, where "non" starts warm.
    `nonneg=False`: of signed codes, as released. `shared`: as for `infer`. Raises BadInput for a target that no lambda
    reaches.
    """
    mode = check_mode(mode)
    if mode == "semi" and steps is None:
        steps = SEMI_STEPS
    _check_target(sae, len(x), target_l0, certified=steps is None)
    z0 = sae.encode_sparse(x) if mode == "semi" else None
    problem = Lasso(sae.target(x), sae.W_dec.detach(), 1.0, nonneg, shared={} if shared is None else shared)
    top = float(lambda_max(problem.x, problem.atoms, nonneg).max())
    if top <= 0:
        raise BadInput("No atom points along any of these activations, so every lambda gives empty codes.")
    low, high = math.log(1e-6 * top), math.log(top)
    start = (low + high) / 2
    if len(x) > 2 * FEW:
        few = spread(len(x), FEW).to(x.device)
        few_l0 = _mean_l0(problem[few], None if z0 is None else z0[few], steps, solve_tol, warm=steps is None)
        start = nearest_root(few_l0, target_l0, low, high, high - 1.0, tol, FEW_CALLS)[0]
    mean_l0 = _mean_l0(problem, z0, steps, solve_tol, warm=False)
    log_lam, reached = nearest_root(mean_l0, target_l0, low, high, start, tol, CALLS)
    if abs(reached - target_l0) <= tol * target_l0:
        return math.exp(log_lam)
    raise BadInput(
        f"No lambda gives a mean L0 of {target_l0:g} to {tol:.0%} after {steps or 'certified'} steps: the nearest is "
        f"{reached:.4g} at lambda = {math.exp(log_lam):.3g}; use more tokens, more steps or another target."
    )


def _check_target(sae: SAE, n: int, target_l0: float, certified: bool) -> None:
    if n == 0:
        raise BadInput("Calibrating lambda needs at least one token.")
    if not 0 < target_l0 < sae.config.m:
        raise BadInput(
            f"A mean L0 of {target_l0:g} is not between 0 and the {sae.config.m} latents; check the encoder."
        )
    if certified and target_l0 >= sae.config.d:
        raise BadInput(
            f"No optimum has a mean L0 of {target_l0:g}: a LASSO solution in general position has at most d = "
            f"{sae.config.d} nonzeros; compare at a lower L0, or give a number of steps."
        )


def _mean_l0(
    problem: Lasso, start: SparseCodes | None, steps: int | None, tol: float, warm: bool
) -> Callable[[float], float]:
    """log lambda -> mean L0 after `steps` ISTA steps from `start`, or certified to `tol`; warm: from the last codes."""

    def mean_l0(log_lam: float) -> float:
        nonlocal start
        at_lam = problem.with_lam(math.exp(log_lam))
        if steps is None:
            codes = solve(at_lam, z0=start, tol=tol).codes
        else:
            codes = solve(at_lam, "ista", start, steps, tol=None, proof=False).codes
        if warm:
            start = codes
        return float(codes.l0.double().mean())

    return mean_l0


def nearest_root(
    f: Callable[[float], float], target: float, low: float, high: float, start: float, tol: float, calls: int
) -> tuple[float, float]:
    """(t, f(t)) with f(t) within tol * target, or the nearest that `calls` evaluations of a falling f >= 0 found.

    From `start`, growing steps, short ones near the target, until it lies between two values; then the secant of log f,
    kept to the inner four fifths of the bracket, and every third time its middle, for an f that jumps over the target.
    """
    below: tuple[float, float] | None = None  # (t, f(t)) with f(t) > target, the largest such t
    above: tuple[float, float] | None = None
    t, width, grown, best = min(max(start, low), high), 0.1, 0.5, (math.nan, math.inf)
    for call in range(calls):
        value = f(t)
        if not abs(value - target) >= abs(best[1] - target):
            best = t, value
        if abs(value - target) <= tol * target:
            break
        if value > target:
            below = t, value
        else:
            above = t, value
        if below is None or above is None:
            edge = high if below is not None else low
            if t == edge:
                break
            width, grown = 2 * width, 2 * grown
            ratio = abs(math.log(value / target)) if value > 0 else math.inf
            step = min(width, grown * max(ratio, tol))
            t = min(t + step, high) if above is None else max(t - step, low)
            continue
        share = 0.5
        if call % 3 and above[1] > 0:
            share = math.log(below[1] / target) / math.log(below[1] / above[1])
        span = above[0] - below[0]
        if span < 1e-12:
            break
        t = below[0] + min(max(share, 0.1), 0.9) * span
    return best
