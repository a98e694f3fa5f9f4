"""Inference modes and controls: how each computes codes, and its row of metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.evaluate import controls
from repro.evaluate.engine import BATCH_TOKENS, Evaluation
from repro.evaluate.rules import Reading
from repro.inference import GRID_EXP5, NON_STEPS, calibrate_lambda, ista_of
from repro.metrics.gap import bracket, gap_summary
from repro.sae import SAE
from repro.solvers import Lasso, pursuit, refit, solve
from repro.solvers.objective import certify, exact_objective

GAP_DENSITY, GAP_STEPS = 0.1, 50  # of the search for the lambda of the released gap


@dataclass(frozen=True)
class Way:
    """One mode or control: codes of a block of activations and its slice of tokens (None for labelled ones)."""

    codes: Callable[[Tensor, slice | None], SparseCodes]
    dictionary: Reading | SAE
    """Whose atoms decode them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Columns of the row: lam, iterations."""


def amortized(job: Evaluation) -> Way:
    """The encoder's codes."""
    facts: dict[str, Any] = {"lam": None, "iterations": None}
    if job.o.gap and job.rules.convergence:
        try:
            facts["lam"] = job.lam("non")
        except BadInput as error:
            facts["note"] = str(error)
    return Way(lambda x, rows: job.reading.amortized(x), job.reading, facts)


def _iterated(job: Evaluation, mode: str, steps: int, at: str | None = None) -> Way:
    """ISTA steps from where a mode begins, at the lambda of the mode `at`; its own if none is given."""
    at = at or mode
    lam = job.lam(at)

    def codes(x: Tensor, rows: slice | None) -> SparseCodes:
        problem = job.problem(x, at)
        ista = ista_of(problem, released=not job.rules.convergence)
        start = job.reading.encode_sparse(x) if mode == "semi" else None
        return solve(problem, ista, start, steps, tol=None, proof=False).codes

    return Way(codes, job.reading, {"lam": lam, "iterations": steps})


def semi(job: Evaluation) -> Way:
    """A few ISTA steps from the encoder's codes."""
    return _iterated(job, "semi", job.o.semi_steps)


def semi_same_lambda(job: Evaluation) -> Way:
    """The same steps at the lambda of the optimum: towards the code that `non` has, wherever their L0 ends."""
    return _iterated(job, "semi", job.o.semi_steps, at="non")


def non(job: Evaluation) -> Way:
    """The certified optimum, or many ISTA steps from zero."""
    if not job.rules.convergence:
        return _iterated(job, "non", job.o.non_steps)
    lam, best = job.lam("non"), job.optimum

    def codes(x: Tensor, rows: slice | None) -> SparseCodes:
        return job.solved(x).codes if rows is None else best.codes[rows]

    slack = (best.objective - best.dual).clamp_min(0)
    facts = gap_summary(torch.zeros_like(slack), slack) | {"converged": best.converged}
    return Way(codes, job.reading, {"lam": lam, "iterations": best.steps, **facts})


def random_dictionary(job: Evaluation) -> Way:
    """The certified optimum of random atoms, at the encoder's L0."""
    other = controls.random_dictionary(job.sae, job.o.seed)
    shared: dict[str, Any] = {}
    lam = calibrate_lambda(other, job.sample, job.target_l0, "non", solve_tol=job.o.tol, shared=shared)

    def codes(x: Tensor, rows: slice | None) -> SparseCodes:
        return solve(Lasso(other.target(x), other.W_dec.detach(), lam, shared=shared), tol=job.o.tol).codes

    return Way(codes, other, {"lam": lam})


def random_encoder(job: Evaluation) -> Way:
    """Codes of random encoder directions, at the encoder's L0."""
    other = controls.random_encoder(job.sae, job.k, job.o.seed)
    return Way(lambda x, rows: other.encode_sparse(x), other)


def encoder_refit(job: Evaluation) -> Way:
    """Nonnegative least squares on the encoder's support."""
    if job.target_l0 > job.sae.config.d:
        raise BadInput(f"Least squares on {job.target_l0:.0f} latents in {job.sae.config.d} dimensions is exact.")

    def codes(x: Tensor, rows: slice | None) -> SparseCodes:
        return refit(job.reading.target(x), job.atoms, job.reading.encode_sparse(x))

    return Way(codes, job.reading)


def pursued(job: Evaluation) -> Way:
    """Matching pursuit of as many latents as the encoder has."""
    if job.k > job.sae.config.d:
        raise BadInput(f"Pursuit of {job.k} latents in {job.sae.config.d} dimensions fits every token exactly.")
    return Way(lambda x, rows: pursuit(job.reading.target(x), job.atoms, job.k), job.reading, {"iterations": job.k})


WAYS: dict[str, Callable[[Evaluation], Way]] = {
    "amortized": amortized,
    "semi": semi,
    "non": non,
    "random_dictionary": random_dictionary,
    "random_encoder": random_encoder,
    "encoder_refit": encoder_refit,
    "pursuit": pursued,
    "semi_same_lambda": semi_same_lambda,
}


def measured(job: Evaluation, way: Way) -> dict[str, Any]:
    """Metrics of the codes of one way."""
    return job.measure(lambda x, rows: (way.codes(x, rows),), 1, way.dictionary)[0]


def row_of(job: Evaluation, mode: str) -> dict[str, Any]:
    """One row of the table; a mode that this SAE cannot have gives only a `note`."""
    start = time.perf_counter()
    row: dict[str, Any] = {"mode": mode, "n_tokens": len(job.tokens)}
    if job.rules.density and job.rules.search:
        row["target_L0"] = job.target_l0
    if mode == "pca":
        row |= controls.pca_row(job.tokens, min(job.k, job.sae.config.d), job.size, job.device, job.bar)
    else:
        try:
            way = WAYS[mode](job)
        except BadInput as error:
            return row | {"note": str(error)}
        row |= way.facts | measured(job, way)
        if mode == "amortized" and job.o.gap and "note" not in row:
            row |= certified_gap(job) if job.rules.convergence else released_gap(job)
    return row | {"seconds": round(time.perf_counter() - start, 3)}


def certified_gap(job: Evaluation) -> dict[str, float]:
    """The distance of the encoder's codes from the optimum, token by token, as a bracket."""
    best, lam = job.optimum, job.lam("non")
    parts = (exact_objective(job.reading.target(x), job.reading.amortized(x), job.atoms, lam) for _, x in job.blocks())
    objective = torch.cat([part.cpu() for part in parts])
    lower, upper = bracket(objective, best.objective, best.dual)
    return gap_summary(lower, upper) | {"amort_gap_relative": float(upper.sum() / objective.sum())}


def released_gap(job: Evaluation) -> dict[str, float]:
    """J(z) - J(z of 200 signed ISTA steps) at a lambda found after 50 steps on 2,000 tokens: the released gap."""
    lam, _ = job.search(BATCH_TOKENS, GRID_EXP5, GAP_DENSITY, GAP_STEPS, exp5=True)
    parts = []
    for _, x in job.blocks():
        target, sign = job.reading.target(x), job.rules.sign
        solved = solve(Lasso(target, job.atoms, lam, sign, shared=job.shared), "ista", max_steps=NON_STEPS, tol=None)
        encoder = certify(target, job.reading.amortized(x), job.atoms, lam, sign)
        parts.append((encoder.objective - solved.objective).cpu())
        job.bar.update(len(x))
    gap = torch.cat(parts)
    return {"amort_gap_mean": float(gap.mean()), "amort_gap_median": float(gap.median()), "amort_lambda": lam}
