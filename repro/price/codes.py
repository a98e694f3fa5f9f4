"""How each kind of codes is computed, and its floating-point operations (FLOPs) by formula."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.evaluate.engine import Evaluation
from repro.inference import calibrate_lambda, ista_of
from repro.sae import SAE, BatchTopK, TopK
from repro.solvers import Lasso, pursuit, refit, solve

OMPR_ROUNDS = 8
FRONTIER_TOL = 0.05  # relative error of the mean L0 at which an optimum of the frontier is taken


@dataclass(frozen=True)
class Method:
    """A kind of codes: what computes them, whose atoms decode them, and what they cost."""

    codes: Callable[[Tensor, SparseCodes], SparseCodes]
    """Activations [n, d] and the encoder's codes of them -> codes."""
    sae: SAE
    flops: Callable[[float], float]
    """Mean L0 of these codes -> FLOPs a token beside the encoder's; what depends on the dictionary alone is free."""
    needs_encoder: bool = True


def pass_flops(sae: SAE) -> float:
    """One product of a token with all latents: 2 d m."""
    return 2.0 * sae.config.d * sae.config.m


def least_squares_flops(d: int, l0: float) -> float:
    """Gram matrix of the support, its Cholesky factor, two triangular solves: 2 d s² + s³ / 3 + 2 s²."""
    return 2 * d * l0**2 + l0**3 / 3 + 2 * l0**2


def encoder(sae: SAE) -> Method:
    """The encoder's codes."""
    return Method(lambda x, z: z, sae, lambda l0: 0.0)


def encoder_at(sae: SAE, k: int, x: Tensor) -> Method:
    """The same encoder with another k; one global threshold is set to the mean L0 of k on activations x [n, d].

    Raises BadInput for a variant whose L0 is no setting.
    """
    if not isinstance(sae, TopK):
        raise BadInput(f"The L0 of a {sae.name} encoder cannot be set.")
    other = copy.copy(sae)
    other.config = replace(sae.config, k=k)
    if isinstance(sae, BatchTopK) and sae.config.eval_activation == "threshold":
        best = ops.encode_batch_topk(sae.encoder_input(x), sae.W_enc, sae.b_enc, len(x) * k)
        least = best.values[best.values > 0].min()
        other._buffers = {**sae._buffers, "threshold": torch.nextafter(least, torch.zeros_like(least))}
    flops = pass_flops(sae)
    return Method(lambda x, z: other.encode_sparse(x), other, lambda l0: flops, needs_encoder=False)


def refitted(method: Method) -> Method:
    """Nonnegative least squares on the support of other codes."""
    sae = method.sae

    def codes(x: Tensor, z: SparseCodes) -> SparseCodes:
        return refit(sae.target(x), sae.W_dec.detach(), method.codes(x, z))

    return replace(method, codes=codes, flops=lambda l0: method.flops(l0) + least_squares_flops(sae.config.d, l0))


def semi(job: Evaluation) -> Method:
    """A few ISTA steps from the encoder's codes, at the lambda that gives the encoder's L0."""
    steps, sae = job.o.semi_steps, job.sae
    job.lam("semi")

    def codes(x: Tensor, z: SparseCodes) -> SparseCodes:
        problem = job.problem(x, "semi")
        return solve(problem, ista_of(problem, released=False), z, steps, tol=None, proof=False).codes

    return Method(codes, sae, lambda l0: steps * (pass_flops(sae) + 2 * sae.config.d * l0))


def optimum(job: Evaluation, l0: float | None = None) -> Method:
    """The certified optimum at a mean L0 of the sample; the encoder's if none is given."""
    sae, atoms, shared = job.sae, job.atoms, job.shared
    if l0 is None:
        lam = job.lam("non")
    else:
        lam = calibrate_lambda(sae, job.sample, l0, tol=FRONTIER_TOL, solve_tol=job.o.tol, shared=shared)
    taken: list[float] = []

    def codes(x: Tensor, z: SparseCodes) -> SparseCodes:
        solution = solve(Lasso(sae.target(x), atoms, lam, shared=shared), tol=job.o.tol)
        taken.append(float(solution.steps.double().mean()))
        return solution.codes

    return Method(codes, sae, lambda l0: sum(taken) / max(len(taken), 1) * pass_flops(sae), needs_encoder=False)


def pursued(
    sae: SAE, shared: dict[str, Any], k: int | None = None, method: str = "omp", rounds: int | None = None
) -> Method:
    """Matching pursuit of k latents, or of as many on each token as its encoder fires.

    omp: orthogonal. ompr: with replacement, `rounds` of them from the encoder's support.
    """
    d, m = sae.config.d, sae.config.m
    options: dict[str, Any] = {"method": method, "shared": shared}
    if method == "ompr":
        options["rounds"] = rounds or OMPR_ROUNDS

    def codes(x: Tensor, z: SparseCodes) -> SparseCodes:
        start = z if method == "ompr" and k is None else None
        most = z.l0.clamp(max=d) if k is None else k
        return pursuit(sae.target(x), sae.W_dec.detach(), most, z0=start, **options)

    def flops(l0: float) -> float:
        updates = options["rounds"] if method == "ompr" else math.ceil(l0)
        mean_size = l0 if method == "ompr" else l0 / 2
        return pass_flops(sae) + updates * (2 * m * mean_size + 4 * l0**2)

    return Method(codes, sae, flops, needs_encoder=k is None)
