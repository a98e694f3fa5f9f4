"""Codes under the inference modes amortized, semi and non and two protocols, and the amortization gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from operator import add
from typing import Any

import torch
from torch import Tensor

from repro.codes import SparseCodes, gathered
from repro.inference.calibration import CALIBRATION_TOKENS, calibrate_lambda, spread
from repro.inference.names import NON_STEPS, SEMI_STEPS, check_mode
from repro.inference.released import GRID9, GRID_STEPS, GRID_TOKENS, encode_as_released, grid_lambda, ista_of
from repro.metrics.firing import Firing
from repro.metrics.gap import bracket
from repro.metrics.names import check_protocol
from repro.sae import SAE
from repro.solvers import Lasso, Solution, solve
from repro.solvers.objective import certify

NUMBERS = {"cpu": 2**25, "cuda": 2**28}
"""Tokens of a block times latents, as `SAE.encode_sparse` has it; half of it as released, where codes may be dense."""


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
    shared: dict[str, Any] | None = None,
) -> Inference:
    """Codes of activations x [n, d].

    corrected: amortized = the checkpoint's real encoder. semi = `steps` (30) nonnegative ISTA steps on x - b_dec from
    the encoder's code. non = the nonnegative optimum, certified to a relative duality gap of `tol`. Without `lam`
    each mode gets the lambda at which its own mean L0 is the encoder's, to 2 % (`calibrate_lambda`).
    as_released: encoder without b_dec, threshold or gates (`encode_as_released`); semi = `steps` (30) signed ISTA steps
    from there, non = `steps` (200) from zero, on x itself; lambda by the released grid of nine (`grid_lambda`).

    gap: bracket J(z) - J* per token by a certified solve of the same objective. Released codes are signed, so their
    optimum is the signed one. An SAE with signed codes is read as its equivalent with two latents for each of its own
    (`SAE.one_sided`).
    shared: a dict to keep between calls with the same dictionary (`Lasso.shared`); nothing is derived from it twice.
    Tokens are taken block by block (`infer_blocks`): on a CPU, only what is returned grows with their number. Codes
    wait for it in a temporary file, 8 bytes a nonzero (set TMPDIR to move it).
    """
    sae.check_input(x)
    return _joined(infer_blocks(sae, x, mode, protocol, steps, lam, tol, gap=gap, shared=shared), len(x))


@torch.no_grad()
def infer_blocks(
    sae: SAE,
    x: Any,
    mode: str = "amortized",
    protocol: str = "corrected",
    steps: int | None = None,
    lam: float | None = None,
    tol: float = 1e-3,
    *,
    gap: bool = True,
    shared: dict[str, Any] | None = None,
    start: int = 0,
) -> Iterator[Inference]:
    """Codes of activations x as `infer` gives them, block by block from token `start` on, at one lambda.

    x: a tensor [n, d], or activations on disk that give tensors for x[i:j] and x[index] (`repro.evaluate.Stored`).
    """
    mode, released = check_mode(mode), check_protocol(protocol) == "as_released"
    sae = sae.one_sided()
    shared, size = {} if shared is None else shared, block_of(sae, released)
    if lam is None and (mode != "amortized" or gap):
        lam = _default_lambda(sae, x, mode, released, steps, tol, shared)
    for i in range(start, max(len(x), start + 1), size):
        yield _of_block(sae, x[i : i + size].to(sae.W_dec.device), mode, protocol, steps, lam, tol, gap, shared)


def block_of(sae: SAE, released: bool) -> int:
    """Tokens of a block."""
    return max(1, NUMBERS.get(sae.W_dec.device.type, NUMBERS["cpu"]) // (1 + released) // sae.config.m)


def _of_block(
    sae: SAE,
    x: Tensor,
    mode: str,
    protocol: str,
    steps: int | None,
    lam: float | None,
    tol: float,
    gap: bool,
    shared: dict[str, Any],
) -> Inference:
    sae.check_input(x)
    released = protocol == "as_released"
    target, atoms = x if released else sae.target(x), sae.W_dec.detach()
    encoder = None
    if mode != "non":
        encoder = encode_as_released(sae, x) if released else sae.encode_sparse(x)
    problem = None if lam is None else Lasso(target, atoms, lam, not released, shared=shared)
    codes, taken, solution = _codes(problem, encoder, mode, released, steps, tol)
    lower = upper = objective = None
    if gap:
        assert problem is not None and lam is not None
        solution = solution or solve(problem, z0=codes, tol=tol)
        objective = certify(target, codes, atoms, lam, not released).objective
        lower, upper = bracket(objective, solution.objective, solution.dual)
    x_hat = codes.decode(atoms) if released else sae.decode(codes, x)
    return Inference(codes, x_hat, lam, lower, upper, objective, mode, protocol, taken)


def _joined(parts: Iterator[Inference], n: int) -> Inference:
    """All blocks as one, put where they belong as they come; n tokens."""
    first = next(parts)
    if len(first.x_hat) == n:
        return first
    x_hat, rest = first.x_hat.new_empty(n, first.x_hat.shape[1]), []

    def codes() -> Iterator[SparseCodes]:
        done = 0
        for part in chain([first], parts):
            x_hat[done : done + len(part.x_hat)] = part.x_hat
            done += len(part.x_hat)
            rest.append((part.gap_lower, part.gap_upper, part.objective, part.steps))
            yield part.codes

    z = gathered(codes())
    *bounds, steps = zip(*rest)
    lower, upper, objective = (None if field[0] is None else torch.cat(field) for field in bounds)
    taken = None if steps[0] is None else max(steps)
    return replace(first, codes=z, x_hat=x_hat, gap_lower=lower, gap_upper=upper, objective=objective, steps=taken)


def _codes(
    problem: Lasso | None, encoder: SparseCodes | None, mode: str, released: bool, steps: int | None, tol: float
) -> tuple[SparseCodes, int | None, Solution | None]:
    """Codes of a mode, the steps taken, and the certified solution if they are its codes."""
    if mode == "amortized":
        assert encoder is not None
        return encoder, None, None
    assert problem is not None
    if mode == "non" and not released and steps is None:
        solution = solve(problem, tol=tol)
        return solution.codes, int(solution.steps.max()) if problem.n else 0, solution
    if steps is None:
        steps = SEMI_STEPS if mode == "semi" else NON_STEPS
    codes = solve(problem, ista_of(problem, released), encoder, steps, tol=None, proof=False).codes
    return codes, steps, None


def _default_lambda(
    sae: SAE, x: Any, mode: str, released: bool, steps: int | None, tol: float, shared: dict[str, Any]
) -> float:
    device = sae.W_dec.device
    if released:
        size = block_of(sae, released)
        blocks = (x[i : i + size].to(device) for i in range(0, max(len(x), 1), size))
        firing = reduce(add, (Firing.of(encode_as_released(sae, block)) for block in blocks))
        dense, first = firing.value()["dense@0.1"], x[:GRID_TOKENS].to(device)
        return grid_lambda(first, sae.W_dec.detach(), dense, GRID9, GRID_STEPS, shared=shared)[0]
    sample = x[spread(len(x), CALIBRATION_TOKENS)].to(device)
    target_l0 = float(sae.encode_sparse(sample).l0.double().mean())
    mode = "non" if mode == "amortized" else mode
    return calibrate_lambda(sae, sample, target_l0, mode, steps, solve_tol=tol, shared=shared)
