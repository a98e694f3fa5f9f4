"""Rows of the as_released protocol, block by block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.codes import SparseCodes
from repro.evaluate.data import EvalData, EvalOptions, Tokens
from repro.evaluate.probes import norm_labels
from repro.evaluate.stream import KeptCodes
from repro.inference import GRID_EXP5, NON_STEPS, encode_as_released, grid_lambda, infer, released_lambda
from repro.metrics import Firing, Reconstruction, probe_metrics
from repro.sae import SAE
from repro.solvers import Lasso, solve
from repro.solvers.objective import certify

FIRST = 2000  # tokens on which the batch evaluation searches lambda
DENSE = 2**22  # numbers of a dense block of codes: released codes are dense, and so take many times this in passing


class Released:
    """One SAE on the first tokens; what several rows need is computed when the first of them asks for it."""

    def __init__(self, sae: SAE, data: EvalData, o: EvalOptions, bar: tqdm[Any]):
        self.sae, self.o, self.bar = sae, o, bar
        self.tokens, self.device = data.tokens.first(o.released_tokens), sae.W_dec.device
        self.size = min(o.block_of(sae.config.m), max(16, DENSE // sae.config.m))
        self.atoms, self.k = sae.W_dec.detach(), sae.source.k if o.released_k else None
        self.shared: dict[str, Any] = {}  # what solvers derive from the dictionary (`Lasso.shared`)

    def first(self, n: int) -> Tensor:
        """The first n activations."""
        x: Tensor = self.tokens.x[:n].to(self.device)
        return x

    def encode(self, x: Tensor) -> SparseCodes:
        return encode_as_released(self.sae, x, k=self.k)

    @cached_property
    def lam(self) -> float:
        """By the batch evaluation's search at a given density, else by the comparison's at that of the encoder."""
        if self.o.target_dense == self.o.target_dense:
            grid = self.first(FIRST), self.atoms, self.o.target_dense, GRID_EXP5
            return grid_lambda(*grid, 25, exp5=True, shared=self.shared)[0]
        parts = (Firing.of(encode_as_released(self.sae, x)) for _, x in self.tokens.blocks(self.size, self.device))
        firing = next(parts)
        for part in parts:
            firing = firing + part
        return released_lambda(self.first(5000), self.atoms, firing.value()["dense@0.1"], self.shared)

    def row(self, mode: str) -> dict[str, Any]:
        """One row of the table."""
        start, o = time.perf_counter(), self.o
        taken = {"amortized": None, "semi": o.semi_steps, "non": o.non_steps}[mode]
        lam = None if mode == "amortized" else self.lam
        row: dict[str, Any] = {"mode": mode, "n_tokens": len(self.tokens), "lam": lam, "iterations": taken}
        kept = KeptCodes(self.sae.config.m, self.device)
        sums: list[Any] = []
        for _, x in self.tokens.blocks(self.size, self.device):
            self.sae.check_input(x)
            if taken is None:
                codes = self.encode(x)
            else:
                codes = infer(self.sae, x, mode, "as_released", taken, lam, gap=False, shared=self.shared).codes
            new: list[Any] = [Reconstruction.of(x, codes.decode(self.atoms)), Firing.of(codes)]
            sums = new if not sums else [a + b for a, b in zip(sums, new)]
            kept.append(codes)
            self.bar.update(len(x))
        for record in sums:
            row |= record.value()
        labels = norm_labels(self.tokens, self.size)
        row |= {"label": "norm above median, in sample"}
        row |= probe_metrics(kept.blocks, labels, None, o.probe_ks)[0]
        if mode == "amortized" and o.gap:
            row |= self.encoder_gap()
        return row | {"seconds": round(time.perf_counter() - start, 3)}

    def encoder_gap(self) -> dict[str, float]:
        """J(z) - J(z of 200 signed ISTA steps) at a lambda found after 50 steps on 2,000 tokens: the released gap."""
        lam, _ = grid_lambda(self.first(FIRST), self.atoms, 0.1, GRID_EXP5, 50, exp5=True, shared=self.shared)
        parts = []
        for _, x in self.tokens.blocks(self.size, self.device):
            problem = Lasso(x, self.atoms, lam, nonneg=False, shared=self.shared)
            solved = solve(problem, "ista", max_steps=NON_STEPS, tol=None)
            encoder = certify(x, self.encode(x), self.atoms, lam, nonneg=False)
            parts.append((encoder.objective - solved.objective).cpu())
            self.bar.update(len(x))
        gap = torch.cat(parts)
        return {"amort_gap_mean": float(gap.mean()), "amort_gap_median": float(gap.median()), "amort_lambda": lam}


def rows(sae: SAE, data: EvalData, modes: Sequence[str], o: EvalOptions, bar: tqdm[Any]) -> Iterator[dict[str, Any]]:
    """One row a mode."""
    job = Released(sae, data, o, bar)
    for mode in modes:
        bar.set_postfix_str(f"as_released {mode}")
        yield job.row(mode)


def passes(modes: Sequence[str], tokens: Tokens, o: EvalOptions) -> int:
    """Tokens that the bar will count for these modes."""
    return (len(modes) + ("amortized" in modes and o.gap)) * min(o.released_tokens, len(tokens))
