"""One evaluation of an SAE under any rules of the ablation: the same code from `as_released` to `corrected`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.evaluate import EvalData, EvalOptions, KeptCodes, Tokens, TokenSums
from repro.evaluate.probes import norm_labels
from repro.evaluate.released import DENSE
from repro.evaluate.rules import Reading, Rules
from repro.inference import CALIBRATION_TOKENS, GRID9, calibrate_lambda, grid_lambda, spread
from repro.metrics import Firing, Reconstruction, pool, probe_metrics
from repro.metrics.absorption import AUX
from repro.sae import SAE
from repro.sections.ablation.density import shuffled_absorption
from repro.solvers import Ista, Lasso, refit, solve

GRID_TOKENS, GRID_STEPS = 5000, 100  # of the released search for lambda


class Ablated:
    """One SAE under any rules; `data(layer, positions)` gives what it is evaluated on.

    Searches for lambda and the codes of the last rules are kept, so that rules that differ in their probes alone,
    asked for one after the other, cost no second inference.
    """

    def __init__(self, sae: SAE, data: Callable[[bool, bool], EvalData], o: EvalOptions):
        self.sae, self.data, self.o, self.device = sae, data, o, sae.W_dec.device
        self.shared: dict[str, Any] = {}  # what solvers derive from the dictionary (`Lasso.shared`)
        self.shares: dict[Any, list[float]] = {}
        self.lams: dict[Any, float | BadInput] = {}
        self.last: dict[str, tuple[Any, Coded]] = {}

    def rows(self, rules: Rules) -> Iterator[dict[str, Any]]:
        """One row a mode: lambda and metrics, or only a `note` where there is no such lambda."""
        for mode in ("amortized", "semi", "non"):
            try:
                lam = None if mode == "amortized" else self.lam(rules, mode)
            except BadInput as error:
                yield {"mode": mode, "note": str(error)}
                continue
            codes = replace(rules, density=rules.dense, search=rules.dense, held_out=True, labels=True)
            if mode == "amortized":
                codes = replace(codes, convergence=True)
            key = codes, lam
            if mode not in self.last or self.last[mode][0] != key:
                self.last[mode] = key, Coded(self, rules, mode, lam)
            yield {"mode": mode, "lam": lam, **self.last[mode][1].value(rules)}

    def evaluated(self, rules: Rules) -> Tokens:
        """The evaluation tokens under these rules."""
        tokens = self.data(rules.layer, rules.positions).tokens
        return tokens if rules.tokens else tokens.first(self.o.released_tokens)

    def block(self, rules: Rules) -> int:
        """Tokens of a block; that of the released protocol where codes may be dense."""
        size, m = self.o.block_of(self.sae.config.m), self.sae.config.m
        return min(size, max(16, DENSE // m)) if rules.dense else size

    # --- lambda ---------------------------------------------------------------------------------
    def lam(self, rules: Rules, mode: str) -> float:
        """The lambda of a mode; raises BadInput, the same each time, where there is none."""
        key = replace(rules, held_out=True, labels=True), mode if rules.search else ""
        if key not in self.lams:
            try:
                self.lams[key] = self._bisect(rules, mode) if rules.search else self._nearest(rules)
            except BadInput as error:
                self.lams[key] = error
        found = self.lams[key]
        if isinstance(found, BadInput):
            raise found
        return found

    def wanted(self, rules: Rules, x: Tensor) -> float:
        """The share of nonzero codes that lambda is to give: the encoder's on x, or its Dense@0.1 there."""
        size = self.block(rules)
        reading = Reading(self.sae, rules)
        parts = [Firing.of(reading.encode_sparse(x[i : i + size])) for i in range(0, len(x), size)]
        firing = sum(parts[1:], parts[0])
        return firing.nonzeros / (firing.n * self.sae.config.m) if rules.density else firing.value()["dense@0.1"]

    def grid(self, rules: Rules) -> list[float]:
        """Share of nonzero codes at each lambda of the released grid, on the tokens that the release searches."""
        key = rules.layer, rules.positions, rules.b_dec, rules.sign
        if key not in self.shares:
            x = Reading(self.sae, rules).target(self.searched(rules))[:GRID_TOKENS]
            atoms = self.sae.W_dec.detach()
            found = grid_lambda(x, atoms, 0.0, GRID9, GRID_STEPS, shared=self.shared, nonneg=rules.sign)
            self.shares[key] = found[1]
        return self.shares[key]

    def searched(self, rules: Rules) -> Tensor:
        """The activations on which the release searches lambda."""
        x: Tensor = self.data(rules.layer, rules.positions).tokens.x[: self.o.released_tokens].to(self.device)
        return x

    def _nearest(self, rules: Rules) -> float:
        wanted, shares = self.wanted(rules, self.searched(rules)), self.grid(rules)
        return GRID9[min(range(len(GRID9)), key=lambda i: (abs(shares[i] - wanted), i))]

    def _bisect(self, rules: Rules, mode: str) -> float:
        tokens, reading = self.evaluated(rules), Reading(self.sae, rules)
        x = tokens.x[spread(len(tokens), CALIBRATION_TOKENS)].to(self.device)
        if rules.density:
            target = float(reading.encode_sparse(x).l0.double().mean())
        else:
            target = self.wanted(rules, self.searched(rules)) * self.sae.config.m
        steps = self.o.semi_steps if mode == "semi" else None if rules.convergence else self.o.non_steps
        given = {"solve_tol": self.o.tol, "nonneg": rules.sign, "shared": self.shared}
        return calibrate_lambda(reading, x, target, mode, steps, **given)  # type: ignore[arg-type]


class Coded:
    """The codes of one mode under some rules: sums over the tokens, and nonzeros kept for the probes."""

    def __init__(self, job: Ablated, rules: Rules, mode: str, lam: float | None):
        self.job, self.mode, self.lam, self.rules = job, mode, lam, rules
        self.reading, self.tokens = Reading(job.sae, rules), job.evaluated(rules)
        self.kept, self.size = KeptCodes(job.sae.config.m, job.device), job.block(rules)
        sums = TokenSums(self.tokens.docs if rules.tokens else torch.zeros_like(self.tokens.docs))
        unshrunk: list[Reconstruction] = []
        widest = 0
        for rows, x in self.tokens.blocks(self.size, job.device):
            job.sae.check_input(x)
            codes = self.of(x)
            sums.add(rows, x, self.reading.decode(codes, x).detach(), codes)
            self.kept.append(codes)
            widest = max(widest, int(codes.l0.max()))
            if job.o.refit and not rules.dense and widest <= job.sae.config.d:
                fitted = refit(self.reading.target(x), job.sae.W_dec.detach(), codes, rules.sign)
                unshrunk.append(Reconstruction.of(x, self.reading.decode(fitted, x).detach()))
        fired = sum(int(firing.fired.sum()) for _, firing in sums.records.values())
        self.values = {"n_tokens": len(self.tokens), "fires": fired / len(self.tokens), **sums.value()}
        if unshrunk and widest <= job.sae.config.d:
            self.values["NMSE_refit"] = sum(unshrunk[1:], unshrunk[0]).value()["NMSE"]

    @torch.no_grad()
    def of(self, x: Tensor) -> SparseCodes:
        """Codes of a block of activations."""
        job, o = self.job, self.job.o
        start = None if self.mode == "non" else self.reading.encode_sparse(x)
        if self.lam is None:
            assert start is not None
            return start
        atoms = job.sae.W_dec.detach()
        problem = Lasso(self.reading.target(x), atoms, self.lam, self.rules.sign, shared=job.shared)
        if self.mode == "non" and self.rules.convergence:
            return solve(problem, tol=o.tol).codes
        ista = Ista() if self.rules.convergence else Ista(1 / (problem.lipschitz + 1e-6))
        steps = o.semi_steps if self.mode == "semi" else o.non_steps
        return solve(problem, ista, start, steps, tol=None, proof=False).codes

    @cached_property
    def pooled(self) -> KeptCodes:
        """Codes of the labelled documents, a row a document."""
        kept, labelled = KeptCodes(self.job.sae.config.m, self.job.device), self._data.labelled
        assert labelled is not None
        for docs, x in labelled.tokens.documents(self.size, self.job.device):
            kept.append(pool(self.of(x), docs))
        return kept

    @property
    def _data(self) -> EvalData:
        return self.job.data(self.rules.layer, self.rules.positions)

    def value(self, rules: Rules) -> dict[str, Any]:
        """The row: sums, probes by the rules' labels and split, and what shuffled codes of the same rates absorb."""
        labelled, train = self._data.labelled, None
        if rules.labels and labelled is not None:
            blocks, labels = self.pooled.blocks, labelled.labels
            train = labelled.train if rules.held_out else None
        else:
            blocks, labels = self.kept.blocks, norm_labels(self.tokens, self.size)
            if rules.held_out:
                train = torch.arange(len(labels)) < len(labels) // 2
        values, probes = probe_metrics(blocks, labels, train, self.job.o.probe_ks)
        on = [p.top[torch.from_numpy(p.y == 1), : 1 + AUX] > 0 for p in probes]
        return {**self.values, **values, **shuffled_absorption(on, seed=self.job.o.seed)}
