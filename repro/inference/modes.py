"""Codes under the inference modes amortized, semi and non and two protocols, and the amortization gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.inference.calibration import CALIBRATION_TOKENS, calibrate_lambda, spread
from repro.inference.names import NON_STEPS, SEMI_STEPS, check_mode
from repro.inference.released import encode_as_released, ista_of, released_lambda
from repro.metrics.firing import Firing
from repro.metrics.gap import bracket
from repro.sae import SAE
from repro.solvers import Lasso, Solution, solve
from repro.solvers.objective import certify


@dataclass(frozen=True)
class Inference:
    """Codes of one mode, their objective, and the bracket of their gap."""

    codes: SparseCodes
    x_hat: Tensor
    """Reconstruction in raw units, [n, d]; as_released: without b_dec."""
    lam: float | None
    """The lambda of the objective; None where no objective was needed."""
    gap_lower: Tensor | None
    """Per token, J(z) - J* is at least this, [n] float64; None if no gap was asked for."""
    gap_upper: Tensor | None
    """Per token, J(z) - J* is at most this, [n] float64."""
    objective: Tensor | None
    """J(z) of these codes, [n] float64."""
    mode: str
    protocol: str
    steps: int | None
    """Iterations: exactly this many (semi, as released), the largest of all tokens (certified), or None."""


@torch.no_grad()
def infer(
    sae: SAE,
    x: Tensor,
    mode: str = "amortized",
    protocol: str = "corrected",
    steps: int | None = None,
    lam: float | None = None,
    tol: float = 1e-3,
    *,
    gap: bool = True,
    solution: Solution | None = None,
    variant: str | None = None,
    solver: str | Any = "auto",
    shared: dict[str, Any] | None = None,
) -> Inference:
    """Codes of activations x [n, d].

    corrected: amortized = the checkpoint's real encoder. semi = `steps` (30) nonnegative ISTA steps on x - b_dec from
    the encoder's code. non = the nonnegative optimum, certified to a relative duality gap of `tol`. Without `lam`
    each mode gets the lambda at which its own mean L0 is the encoder's, to 2 % (`calibrate_lambda`).
    as_released: encoder without b_dec, threshold or gates (`encode_as_released`); semi = `steps` (30) signed ISTA steps
    from there, non = `steps` (200) from zero, on x itself; lambda by the released grid of nine (`released_lambda`).

    gap: bracket J(z) - J* per token by a certified solve of the same objective; `solution` is that solve where the
    caller has it. Released codes are signed, so their optimum is the signed one.
    shared: a dict to keep between calls with the same dictionary (`Lasso.shared`); nothing is derived from it twice.
    """
    shared = {} if shared is None else shared
    mode = check_mode(mode)
    sae.check_input(x)
    if protocol == "corrected":
        target, atoms, nonneg = sae.target(x), sae.W_dec.detach(), True
        encoder = sae.encode_sparse(x) if mode != "non" else None
    elif protocol == "as_released":
        target, atoms, nonneg = x, sae.W_dec.detach(), False
        encoder = encode_as_released(sae, x, variant=variant) if mode != "non" else None
    else:
        raise BadInput(f"protocol is '{protocol}'; it must be as_released or corrected.")
    if lam is None and (mode != "amortized" or gap):
        lam = _default_lambda(sae, x, mode, protocol, steps, tol, variant, shared)
    problem = None if lam is None else Lasso(target, atoms, lam, nonneg, shared=shared)
    taken = None
    if mode == "amortized":
        assert encoder is not None
        codes = encoder
    elif mode == "non" and protocol == "corrected" and steps is None:
        assert problem is not None
        solution = solution or solve(problem, solver, tol=tol)
        codes, taken = solution.codes, int(solution.steps.max()) if len(x) else 0
    else:
        assert problem is not None
        taken = steps if steps is not None else (SEMI_STEPS if mode == "semi" else NON_STEPS)
        codes = solve(problem, ista_of(problem, protocol == "as_released"), encoder, taken, tol=None, proof=False).codes
    lower = upper = objective = None
    if gap:
        assert problem is not None and lam is not None
        solution = solution or solve(problem, solver, z0=codes, tol=tol)
        objective = certify(target, codes, atoms, lam, nonneg).objective
        lower, upper = bracket(objective, solution.objective, solution.dual)
    x_hat = codes.decode(atoms) if protocol == "as_released" else sae.decode(codes, x)
    return Inference(codes, x_hat, lam, lower, upper, objective, mode, protocol, taken)


def _default_lambda(
    sae: SAE,
    x: Tensor,
    mode: str,
    protocol: str,
    steps: int | None,
    tol: float,
    variant: str | None,
    shared: dict[str, Any],
) -> float:
    if protocol == "as_released":
        codes = encode_as_released(sae, x, variant=variant)
        return released_lambda(x, sae.W_dec.detach(), Firing.of(codes).value()["dense@0.1"], shared)
    sample = x[spread(len(x), CALIBRATION_TOKENS)]
    target_l0 = float(sae.encode_sparse(sample).l0.double().mean())
    mode = "non" if mode == "amortized" else mode
    return calibrate_lambda(sae, sample, target_l0, mode, steps, solve_tol=tol, shared=shared)
