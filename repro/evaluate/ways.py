"""Rows of the corrected protocol: every mode and control at the encoder's L0, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.evaluate import controls
from repro.evaluate.data import EvalData, EvalOptions, Tokens
from repro.evaluate.probes import probe_row
from repro.evaluate.stream import KeptCodes, TokenSums
from repro.inference import CALIBRATION_TOKENS, calibrate_lambda, infer, spread
from repro.metrics import Reconstruction, pool
from repro.metrics.gap import bracket, gap_summary
from repro.sae import SAE
from repro.solvers import Lasso, pursuit, refit, solve
from repro.solvers.objective import exact_objective


@dataclass(frozen=True)
class Way:
    """One way to codes: of a block of activations, given which evaluation tokens they are (None for labelled ones)."""

    codes: Callable[[Tensor, slice | None], SparseCodes]
    sae: SAE
    """Whose dictionary decodes them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Columns of the row: lam, iterations."""


@dataclass(frozen=True)
class Optimum:
    """Certified optima of the evaluation tokens: codes, and what is proven of each token, [n] float64."""

    codes: KeptCodes
    objective: Tensor
    dual: Tensor
    converged: float
    steps: int

    @property
    def gap(self) -> Tensor:
        return (self.objective - self.dual).clamp_min(0)


class Corrected:
    """One SAE on one set of tokens; what several rows need is computed when the first of them asks for it."""

    def __init__(self, sae: SAE, data: EvalData, o: EvalOptions, bar: tqdm[Any]):
        self.sae, self.data, self.o, self.bar = sae, data, o, bar
        self.tokens, self.device, self.size = data.tokens, sae.W_dec.device, o.block_of(sae.config.m)
        self.shared: dict[str, Any] = {}  # what solvers derive from the dictionary (`Lasso.shared`)
        self.lams: dict[str, float | BadInput] = {} if o.lam is None else {"non": o.lam}

    # --- what rows share ------------------------------------------------------------------------
    @cached_property
    def sample(self) -> Tensor:
        """Tokens on which lambda is calibrated, spread evenly over all."""
        return self.tokens.x[spread(len(self.tokens), CALIBRATION_TOKENS)].to(self.device)

    @cached_property
    def target_l0(self) -> float:
        """The encoder's mean L0 on them."""
        return float(self.sae.encode_sparse(self.sample).l0.double().mean())

    @property
    def k(self) -> int:
        """The encoder's L0 as a whole number of latents."""
        return min(max(1, round(self.target_l0)), self.sae.config.m)

    def lam(self, mode: str) -> float:
        """The lambda of a mode; raises BadInput, the same each time, where there is none."""
        if mode not in self.lams:
            steps = self.o.semi_steps if mode == "semi" else None
            try:
                self.lams[mode] = calibrate_lambda(
                    self.sae, self.sample, self.target_l0, mode, steps, solve_tol=self.o.tol, shared=self.shared
                )
            except BadInput as error:
                self.lams[mode] = error
        found = self.lams[mode]
        if isinstance(found, BadInput):
            raise found
        return found

    def optimum_of(self, x: Tensor) -> Any:
        """Certified solution of a block."""
        problem = Lasso(self.sae.target(x), self.sae.W_dec.detach(), self.lam("non"), shared=self.shared)
        return solve(problem, tol=self.o.tol)

    @cached_property
    def optimum(self) -> Optimum:
        """All evaluation tokens solved, once, for the mode `non` and for the encoder's gap."""
        kept, proofs = KeptCodes(self.sae.config.m, self.device), []
        for _, x in self.tokens.blocks(self.size, self.device):
            found = self.optimum_of(x)
            kept.append(found.codes)
            proofs.append((found.objective, found.dual, found.converged.double(), found.steps))
            self.bar.update(len(x))
        objective, dual, converged, steps = (torch.cat(field).cpu() for field in zip(*proofs))
        return Optimum(kept, objective, dual, float(converged.mean()), int(steps.max()))

    # --- ways to codes --------------------------------------------------------------------------
    def amortized(self) -> Way:
        facts: dict[str, Any] = {"lam": None, "iterations": None}
        if self.o.gap:
            try:
                facts["lam"] = self.lam("non")
            except BadInput as error:
                facts["note"] = str(error)
        return Way(lambda x, rows: self.sae.encode_sparse(x), self.sae, facts)

    def semi(self) -> Way:
        lam, steps = self.lam("semi"), self.o.semi_steps

        def codes(x: Tensor, rows: slice | None) -> SparseCodes:
            return infer(self.sae, x, "semi", steps=steps, lam=lam, gap=False, shared=self.shared).codes

        return Way(codes, self.sae, {"lam": lam, "iterations": steps})

    def non(self) -> Way:
        lam, best = self.lam("non"), self.optimum

        def codes(x: Tensor, rows: slice | None) -> SparseCodes:
            return self.optimum_of(x).codes if rows is None else best.codes[rows]

        facts = gap_summary(torch.zeros_like(best.gap), best.gap) | {"converged": best.converged}
        return Way(codes, self.sae, {"lam": lam, "iterations": best.steps, **facts})

    def random_dictionary(self) -> Way:
        other = controls.random_dictionary(self.sae, self.o.seed)
        shared: dict[str, Any] = {}
        lam = calibrate_lambda(other, self.sample, self.target_l0, "non", solve_tol=self.o.tol, shared=shared)

        def codes(x: Tensor, rows: slice | None) -> SparseCodes:
            problem = Lasso(other.target(x), other.W_dec.detach(), lam, shared=shared)
            return solve(problem, tol=self.o.tol).codes

        return Way(codes, other, {"lam": lam})

    def random_encoder(self) -> Way:
        other = controls.random_encoder(self.sae, self.k, self.o.seed)
        return Way(lambda x, rows: other.encode_sparse(x), other)

    def encoder_refit(self) -> Way:
        def codes(x: Tensor, rows: slice | None) -> SparseCodes:
            return refit(self.sae.target(x), self.sae.W_dec.detach(), self.sae.encode_sparse(x))

        if self.target_l0 > self.sae.config.d:
            raise BadInput(f"Least squares on {self.target_l0:.0f} latents in {self.sae.config.d} dimensions is exact.")
        return Way(codes, self.sae)

    def pursuit(self) -> Way:
        def codes(x: Tensor, rows: slice | None) -> SparseCodes:
            return pursuit(self.sae.target(x), self.sae.W_dec.detach(), self.k)

        if self.k > self.sae.config.d:
            raise BadInput(f"Pursuit of {self.k} latents in {self.sae.config.d} dimensions fits every token exactly.")
        return Way(codes, self.sae, {"iterations": self.k})

    # --- rows -----------------------------------------------------------------------------------
    def row(self, mode: str) -> dict[str, Any]:
        """One row of the table; a mode that this SAE cannot have gives only a `note`."""
        start = time.perf_counter()
        row: dict[str, Any] = {"mode": mode, "n_tokens": len(self.tokens), "target_L0": self.target_l0}
        if mode == "pca":
            rank = min(self.k, self.sae.config.d)
            row |= controls.pca_row(self.tokens, rank, self.size, self.device, self.bar)
        else:
            try:
                way = getattr(self, mode)()
            except BadInput as error:
                return row | {"note": str(error)}
            row |= way.facts | self.measure(way, own_pass=mode != "non")
            if mode == "amortized" and way.facts["lam"] is not None:
                row |= self.encoder_gap()
        return row | {"seconds": round(time.perf_counter() - start, 3)}

    def measure(self, way: Way, own_pass: bool = True) -> dict[str, Any]:
        """Metrics of the codes of one way, in one pass over the tokens and one over the labelled documents."""
        d, labelled = self.sae.config.d, self.data.labelled
        sums, unshrunk, widest = TokenSums(self.tokens.docs), None, 0
        kept = KeptCodes(self.sae.config.m, self.device)
        for rows, x in self.tokens.blocks(self.size, self.device):
            self.sae.check_input(x)
            codes = way.codes(x, rows)
            sums.add(rows, x, way.sae.decode(codes, x).detach(), codes)
            widest = max(widest, int(codes.l0.max()))
            if self.o.refit and widest <= d:
                fitted = refit(way.sae.target(x), way.sae.W_dec.detach(), codes)
                record = Reconstruction.of(x, way.sae.decode(fitted, x).detach())
                unshrunk = record if unshrunk is None else unshrunk + record
            if labelled is None:
                kept.append(codes)
            if own_pass:
                self.bar.update(len(x))
        if labelled is not None:
            for docs, x in labelled.tokens.documents(self.size, self.device):
                kept.append(pool(way.codes(x, None), docs))
        out: dict[str, Any] = sums.value()
        if unshrunk is not None and widest <= d:
            out["NMSE_refit"] = unshrunk.value()["NMSE"]
        return out | probe_row(self.data, kept.blocks, self.o)

    def encoder_gap(self) -> dict[str, float]:
        """How far the encoder's codes are from the optimum, token by token, as a bracket."""
        best, parts = self.optimum, []
        atoms, lam = self.sae.W_dec.detach(), self.lam("non")
        for _, x in self.tokens.blocks(self.size, self.device):
            codes = self.sae.encode_sparse(x)
            parts.append(exact_objective(self.sae.target(x), codes, atoms, lam).cpu())
        objective = torch.cat(parts)
        lower, upper = bracket(objective, best.objective, best.dual)
        return gap_summary(lower, upper) | {"amort_gap_relative": float(upper.sum() / objective.sum())}


def rows(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions, bar: tqdm[Any]) -> Iterator[dict[str, Any]]:
    """One row a mode."""
    job = Corrected(sae, data, o, bar)
    for mode in modes:
        bar.set_postfix_str(f"corrected {mode}")
        yield job.row(mode)


def passes(modes: Sequence[str], tokens: Tokens, o: EvalOptions) -> int:
    """Tokens that the bar will count for these modes."""
    extra = "amortized" in modes and "non" not in modes and o.gap
    return (len(modes) + extra) * len(tokens)
