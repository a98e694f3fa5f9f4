"""One SAE on one set of tokens under any rules: lambda, the certified optimum, and metrics of codes block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.base.errors import BadInput
from repro.codes import KeptCodes, SparseCodes
from repro.evaluate.data import EvalData, EvalOptions
from repro.evaluate.probes import probe_row
from repro.evaluate.rules import CORRECTED, Reading, Rules
from repro.evaluate.stream import TokenSums
from repro.inference import CALIBRATION_TOKENS, GRID9, GRID_EXP5, calibrate_lambda, grid_lambda, spread
from repro.inference.released import GRID_STEPS, GRID_TOKENS
from repro.metrics import Firing, Reconstruction, pool
from repro.sae import SAE
from repro.solvers import Lasso, Solution, refit, solve

BATCH_TOKENS, BATCH_STEPS = 2000, 25  # of the search for lambda of the released batch evaluation
DENSE = 2**22  # numbers of a dense block of codes: released codes are dense, and so take many times this in passing

CodesOf = Callable[[Tensor, "slice | None"], Iterable[SparseCodes]]
"""Codes of a block of activations, given which evaluation tokens they are (None for labelled ones), one or several."""


@dataclass(frozen=True)
class Optimum:
    """Certified optima of the evaluation tokens: codes, and what is proven of each token, [n] float64."""

    codes: KeptCodes
    objective: Tensor
    dual: Tensor
    converged: float
    steps: int


class Evaluation:
    """One SAE on one set of tokens under one set of rules; what several rows need is computed when first asked for.

    memo: a dict that evaluations of the same SAE under other rules share; no lambda is then searched twice.
    """

    def __init__(
        self,
        sae: SAE,
        data: EvalData,
        rules: Rules,
        options: EvalOptions,
        bar: tqdm[Any] | None = None,
        memo: dict[Any, Any] | None = None,
    ):
        sae = sae.one_sided()
        self.sae, self.data, self.rules, self.o = sae, data, rules, options
        self.bar = bar if bar is not None else tqdm(disable=True)
        self.memo = {} if memo is None else memo
        self.shared: dict[str, Any] = self.memo.setdefault("shared", {})  # what solvers derive from the dictionary
        self.reading, self.atoms, self.device = Reading(sae, rules), sae.W_dec.detach(), sae.W_dec.device
        self.first = data.tokens.first(options.released_tokens)  # all that the release reads
        self.tokens = data.tokens if rules.tokens else self.first
        self.size = options.block_of(sae.config.m)
        if rules.dense:
            self.size = min(self.size, max(16, DENSE // sae.config.m))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which tokens, their activations) block by block."""
        return self.tokens.blocks(self.size, self.device)

    # --- lambda ---------------------------------------------------------------------------------
    def lam(self, mode: str) -> float:
        """The lambda of a mode; raises BadInput, the same each time, where there is none."""
        if self.rules.search and mode == "non" and self.o.lam is not None:
            return self.o.lam
        key = "lam", replace(self.rules, held_out=True, labels=True), mode if self.rules.search else ""
        if key not in self.memo:
            try:
                self.memo[key] = self._bisect(mode) if self.rules.search else self._nearest()
            except BadInput as error:
                self.memo[key] = error
        lam: float | BadInput = self.memo[key]
        if isinstance(lam, BadInput):
            raise lam
        return lam

    @cached_property
    def sample(self) -> Tensor:
        """Tokens on which lambda is bisected, spread evenly over all."""
        return self.tokens.x[spread(len(self.tokens), CALIBRATION_TOKENS)].to(self.device)

    @cached_property
    def target_l0(self) -> float:
        """The mean L0 to which lambda is bisected: the encoder's on the sample, or m times `target_density`."""
        if self.rules.density:
            return float(self.reading.encode_sparse(self.sample).l0.double().mean())
        return self.target_density * self.sae.config.m

    @property
    def k(self) -> int:
        """The encoder's L0 as a whole number of latents."""
        return min(max(1, round(self.target_l0)), self.sae.config.m)

    @cached_property
    def target_density(self) -> float:
        """The share of nonzero codes for which the released search aims: given, the encoder's, or its Dense@0.1."""
        if self.rules.batch_evaluation:
            return self.o.target_dense
        blocks = self.first.blocks(self.size, self.device)
        firing = reduce(add, (Firing.of(self.reading.encode_sparse(x)) for _, x in blocks))
        return firing.nonzeros / (firing.n * self.sae.config.m) if self.rules.density else firing.value()["dense@0.1"]

    @property
    def grid(self) -> dict[float, float]:
        """Share of nonzero codes at each lambda of the released grid, on the first tokens."""
        rules = self.rules
        key = "grid", rules.layer, rules.positions, rules.b_dec, rules.sign, rules.batch_evaluation
        if key not in self.memo:
            values, n, steps = GRID9, GRID_TOKENS, GRID_STEPS
            if rules.batch_evaluation:
                values, n, steps = GRID_EXP5, BATCH_TOKENS, BATCH_STEPS
            shares = self.search(n, values, 0.0, steps, rules.batch_evaluation)[1]
            self.memo[key] = dict(zip(values, shares, strict=True))
        shares_by_lam: dict[float, float] = self.memo[key]
        return shares_by_lam

    def search(
        self, n: int, values: tuple[float, ...], density: float, steps: int, exp5: bool
    ) -> tuple[float, list[float]]:
        """`grid_lambda` on the first n tokens."""
        target = self.reading.target(self.first.x[:n].to(self.device))
        return grid_lambda(target, self.atoms, density, values, steps, exp5, self.shared, self.rules.sign)

    def _nearest(self) -> float:
        return min(self.grid, key=lambda lam: (abs(self.grid[lam] - self.target_density), lam))

    def _bisect(self, mode: str) -> float:
        steps = self.o.semi_steps if mode == "semi" else None if self.rules.convergence else self.o.non_steps
        options: dict[str, Any] = {"solve_tol": self.o.tol, "nonneg": self.rules.sign, "shared": self.shared}
        sae: Any = self.reading  # it has all that calibration reads of an SAE
        return calibrate_lambda(sae, self.sample, self.target_l0, mode, steps, **options)

    # --- the certified optimum ------------------------------------------------------------------
    def problem(self, x: Tensor, mode: str) -> Lasso:
        """The objective of a block of activations at the lambda of a mode."""
        return Lasso(self.reading.target(x), self.atoms, self.lam(mode), self.rules.sign, shared=self.shared)

    def solved(self, x: Tensor) -> Solution:
        """Certified solution of a block."""
        return solve(self.problem(x, "non"), tol=self.o.tol)

    @cached_property
    def optimum(self) -> Optimum:
        """All evaluation tokens solved, once, for the mode `non` and for the encoder's gap."""
        codes, proofs = KeptCodes(self.sae.config.m, self.device, signed=not self.rules.sign), []
        for _, x in self.blocks():
            solution = self.solved(x)
            codes.append(solution.codes)
            proofs.append((solution.objective, solution.dual, solution.converged.double(), solution.steps))
            self.bar.update(len(x))
        objective, dual, converged, steps = (torch.cat(field).cpu() for field in zip(*proofs))
        return Optimum(codes, objective, dual, float(converged.mean()), int(steps.max()))

    # --- metrics --------------------------------------------------------------------------------
    def measure(self, codes: CodesOf, n: int = 1, dictionary: Reading | SAE | None = None) -> list[dict[str, Any]]:
        """Metrics of each of the n codes that `codes` gives, in one pass over the tokens and one over the documents.

        dictionary: whose atoms decode them; the reading of this SAE if not given.
        """
        parts = [Measured(self, dictionary or self.reading) for _ in range(n)]
        for rows, x in self.blocks():
            self.sae.check_input(x)
            for part, z in zip(parts, codes(x, rows), strict=True):
                part.add(rows, x, z)
            self.bar.update(len(x))
        if self.labelled is not None:
            for docs, x in self.labelled.tokens.documents(self.size, self.device):
                for part, z in zip(parts, codes(x, None), strict=True):
                    part.codes.append(pool(z, docs))
        if self.language is not None:
            reader = dictionary or self.reading
            for part, columns in zip(parts, self.language.columns(self._decoded(codes, reader), n), strict=True):
                part.losses = columns
        return [part.value() for part in parts]

    def _decoded(self, codes: CodesOf, dictionary: Reading | SAE) -> Callable[[Tensor], list[Tensor]]:
        """The reconstructions of activations [b, d] on any device by each of the codes that `codes` gives."""

        def reconstruct(x: Tensor) -> list[Tensor]:
            blocks = x.to(self.device).split(self.size)
            parts = [[dictionary.decode(z, block).detach() for z in codes(block, None)] for block in blocks]
            return [torch.cat(part) for part in zip(*parts, strict=True)]

        return reconstruct

    @property
    def language(self) -> Any:
        """The language model whose loss is measured; the released protocol has none."""
        return self.data.language if self.rules == CORRECTED else None

    @property
    def labelled(self) -> Any:
        """The labelled documents by which codes are judged; None = the label of the norm is used."""
        return self.data.labelled if self.rules.labels else None


class Measured:
    """Sums over the tokens of one kind of codes, and the nonzeros that its probes read."""

    def __init__(self, job: Evaluation, dictionary: Reading | SAE):
        self.job, self.dictionary = job, dictionary
        docs = job.tokens.docs
        self.sums = TokenSums(docs if job.rules.tokens else torch.zeros_like(docs))
        self.codes = KeptCodes(job.sae.config.m, job.device)
        self.refitted: list[Reconstruction] = []
        self.losses: dict[str, float] = {}
        self.widest = 0

    def add(self, rows: slice, x: Tensor, codes: SparseCodes) -> None:
        """Codes of the activations x of some tokens."""
        job, dictionary = self.job, self.dictionary
        self.sums.add(rows, x, dictionary.decode(codes, x).detach(), codes)
        if job.labelled is None:
            self.codes.append(codes)
        self.widest = max(self.widest, int(codes.l0.max()))
        if job.o.refit and not job.rules.dense and self.widest <= job.sae.config.d:
            fitted = refit(dictionary.target(x), dictionary.W_dec.detach(), codes, job.rules.sign)
            self.refitted.append(Reconstruction.of(x, dictionary.decode(fitted, x).detach()))

    def value(self) -> dict[str, Any]:
        """All metrics of a row."""
        job = self.job
        out: dict[str, Any] = self.sums.value(intervals=job.rules.tokens)
        if job.o.nulls:
            fired = sum(int(firing.fired.sum()) for firing in self.sums.groups("firing"))
            out["fires"] = fired / len(job.tokens)
        if self.refitted and self.widest <= job.sae.config.d:
            out["NMSE_refit"] = reduce(add, self.refitted).value()["NMSE"]
        return out | self.losses | probe_row(self.codes.blocks, job.tokens, job.labelled, job.rules.held_out, job.o)
