"""One SAE and one text: tokens, codes under the three modes at any lambda, and what is proven about each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from repro.activations.forward import collect_texts
from repro.activations.language_models.load import LoadedModel
from repro.activations.rows import Rows
from repro.activations.store import EXCLUDE
from repro.base.errors import BadInput
from repro.checkpoints.match import Place, contradictions
from repro.codes import SparseCodes
from repro.inference import MODES, SEMI_STEPS, calibrate_lambda, spread
from repro.metrics.gap import bracket
from repro.sae import SAE
from repro.sections.explorer.names import Library
from repro.sections.types import DataFrame
from repro.solvers import SOLVERS, Lasso, Solution, solve
from repro.solvers.objective import certify

DESCENTS = ("ista", "fista")
"""Solvers whose steps can be followed from the encoder's code."""
CALIBRATED_ON = 500
TOL = 1e-4
"""Relative duality gap of the optimum; float32 codes reach about 1e-5."""


@dataclass(frozen=True)
class Reading:
    """A text as the language model read it."""

    text: str
    tokens: tuple[str, ...]
    x: Tensor
    """Activations, [n, d] float32."""
    counted: Tensor
    """Which tokens belong to the evaluation: no special token, not the first position; [n] bool."""


@dataclass(frozen=True)
class State:
    """Codes of all tokens of a text at one lambda and number of steps, and what is proven of them."""

    reading: Reading
    lam: float
    steps: int
    solver: str
    codes: dict[str, SparseCodes]
    """By mode: the encoder's, after `steps` steps from there, and the certified optimum."""
    objective: dict[str, Tensor]
    """J(z) = 1/2 ||x - b - zD||^2 + lam ||z||_1 of each mode, [n] float64."""
    lower: dict[str, Tensor]
    """J(z) - J* is at least this, [n]."""
    upper: dict[str, Tensor]
    """J(z) - J* is at most this, [n]: the duality gap of z with the optimum's dual point."""
    solution: Solution
    nmse: dict[str, float]
    """Of the counted tokens."""

    def share(self, mode: str = "amortized") -> Tensor:
        """The gap as a share of the objective, (J(z) - dual) / J(z) in [0, 1], [n]; 0 where J(z) is 0."""
        J = self.objective[mode]
        return torch.where(J > 0, self.upper[mode] / J, 0.0).clamp(0, 1)

    def summary(self) -> DataFrame:
        """Means over the counted tokens, a row a mode: L0, NMSE, objective, gap, gap as a share of the objective."""
        import pandas as pd

        keep = self.reading.counted
        rows = {
            mode: {
                "L0": float(self.codes[mode].l0[keep].double().mean()),
                "NMSE": self.nmse[mode],
                "objective": float(self.objective[mode][keep].mean()),
                "gap at most": float(self.upper[mode][keep].mean()),
                "share": float(self.upper[mode][keep].sum() / self.objective[mode][keep].sum()),
            }
            for mode in MODES
        }
        return pd.DataFrame(rows).T

    def table(self, token: int) -> DataFrame:
        """Codes of one token, a row a latent that any mode uses, largest optimum first; columns are the modes."""
        import pandas as pd

        columns = {}
        for mode in MODES:
            codes = self.codes[mode][token : token + 1]
            on = codes.values[0] != 0
            columns[mode] = pd.Series(codes.values[0][on].tolist(), index=codes.indices[0][on].tolist(), dtype=float)
        table = pd.DataFrame(columns).fillna(0.0)
        table.index.name = "latent"
        return table.sort_values(["non", "semi", "amortized"], ascending=False, kind="stable")


@dataclass
class Explorer:
    """An SAE, the language model it was trained on, and text in which its latents can be found."""

    sae: SAE
    loaded: LoadedModel
    rows: Rows
    """Tokens of the same model and layer: they set lambda, and the last `name_tokens` of them name the latents."""
    name_tokens: int = 20_000
    max_tokens: int = 64
    """Tokens of a text that are read; the rest is cut off."""
    shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        layer = self.sae.source.layer
        if layer is not None and layer != self.loaded.layer:
            raise BadInput(
                f"The SAE was trained on layer {layer} and the text is read at layer {self.loaded.layer}: "
                f'set changes = {{"layer": {layer}}}.'
            )
        here = Place(self.loaded.layer, self.loaded.site, str(self.loaded.provenance.get("name") or ""))
        if names := contradictions(Place.of_sae(self.sae), here):
            own = ", ".join(f"{name} {Place.of_sae(self.sae).facts()[name]}" for name in names)
            read = ", ".join(f"{name} {here.facts()[name]}" for name in names)
            raise BadInput(f"The SAE was trained on {own}, but the text is read at {read}: give one that fits.")
        self.sae = self.sae.to("cpu").requires_grad_(False)
        self.sae.check_input(self.rows.read(slice(0, 1)))

    @cached_property
    def library(self) -> Library:
        """Where latents fire, and what lies beside them."""
        last = Rows(self.rows.store, self.rows.index[-self.name_tokens :], {})
        return Library.of(self.sae, last, self.loaded.tokenizer)

    @cached_property
    def matched_lambda(self) -> float:
        """The lambda at which optimal codes have the encoder's mean L0, on 500 of the last 1,000 rows, to 2 %."""
        last = self.rows.n - min(self.rows.n, 2 * CALIBRATED_ON)
        sample = self.rows.read(slice(last, None))
        sample = sample[spread(len(sample), CALIBRATED_ON)]
        target = float(self.sae.encode_sparse(sample).l0.double().mean())
        return calibrate_lambda(self.sae, sample, target, shared=self.shared)

    def read(self, text: str) -> Reading:
        """Run the language model over a text. Raises BadInput for an empty one, or one of a single token."""
        if not text.strip():
            raise BadInput("There is no text: type some, or choose an example.")
        store = collect_texts(self.loaded, [text], seq_len=self.max_tokens, max_tokens=self.max_tokens)
        rows = store.select(("pad",))
        counted = torch.zeros(store.mask.size, dtype=torch.bool)
        if rows.n > 1:
            counted[store.select(EXCLUDE).index] = True
        if not counted.any():
            raise BadInput("The first token is left out, as in the evaluation: give a text of at least two tokens.")
        assert store.tokens is not None
        ids = store.tokens.reshape(-1)[rows.index].tolist()
        tokens = tuple(self.loaded.tokenizer.decode([i]) for i in ids)
        return Reading(text, tokens, rows.read(slice(None)), counted[rows.index])

    @torch.no_grad()
    def state(
        self,
        reading: Reading,
        lam: float | None = None,
        steps: int = SEMI_STEPS,
        solver: str = "ista",
        before: State | None = None,
    ) -> State:
        """Codes of every token under the three modes at lambda (the matched one if not given).

        `before`: a state of the same text, whose optimum is a good start for this one. Raises BadInput for a solver
        that is no descent, negative steps or a lambda that is not positive.
        """
        lam = self.matched_lambda if lam is None else lam
        problem, start = self._problem(reading, lam, steps, solver)
        warm = before.solution.codes if before is not None and before.reading is reading else None
        solution = solve(problem, z0=warm, tol=TOL)
        codes = {
            "amortized": start,
            "semi": solve(problem, solver, start, steps, tol=None, proof=False).codes,
            "non": solution.codes,
        }
        keep = reading.counted
        energy = float(reading.x[keep].double().square().sum())
        objective, lower, upper, nmse = {}, {}, {}, {}
        for mode, z in codes.items():
            objective[mode] = certify(problem.x, z, problem.atoms, lam).objective
            lower[mode], upper[mode] = bracket(objective[mode], solution.objective, solution.dual)
            lost = (reading.x - self.sae.decode(z, reading.x))[keep].double().square().sum()
            nmse[mode] = float(lost) / energy if energy else math.nan
        return State(reading, lam, steps, solver, codes, objective, lower, upper, solution, nmse)

    @torch.no_grad()
    def descent(
        self, reading: Reading, token: int, lam: float, marks: Sequence[int], solver: str = "ista"
    ) -> tuple[DataFrame, dict[int, SparseCodes]]:
        """One token's way from the encoder's code: (certificates by step, codes by step), at the steps in `marks`.

        Columns: step, primal J(z), dual (the best value proven so far, at most J*), gap = primal - dual.
        """
        import pandas as pd

        marks = sorted(set(marks))
        one = slice(token, token + 1)
        problem, start = self._problem(reading, lam, marks[-1], solver)
        rows_of: list[tuple[int, float, float]] = []
        codes: dict[int, SparseCodes] = {}

        def look(step: int, rows: Tensor, state: Any) -> None:
            if step in marks:
                proof = state.certificate()
                rows_of.append((step, float(proof.objective[0]), float(proof.dual[0])))
                codes[step] = state.codes()

        solve(problem[one], solver, start[one], marks[-1], tol=None, proof=False, callback=look)
        table = pd.DataFrame(rows_of, columns=["step", "primal", "dual"])
        table["dual"] = table["dual"].cummax().clip(lower=0.0)  # v = 0 is feasible and proves J* >= 0
        return table.assign(gap=(table["primal"] - table["dual"]).clip(lower=0.0)), codes

    def _problem(self, reading: Reading, lam: float, steps: int, solver: str) -> tuple[Lasso, SparseCodes]:
        if solver not in DESCENTS or solver not in SOLVERS:
            raise BadInput(f"No descent '{solver}'; there are {', '.join(DESCENTS)}.")
        if not (math.isfinite(lam) and lam > 0):
            raise BadInput(f"lambda must be a positive number, not {lam}.")
        if steps < 0:
            raise BadInput(f"The number of steps must be at least 0, not {steps}.")
        problem = Lasso(self.sae.target(reading.x), self.sae.W_dec, lam, shared=self.shared)
        return problem, self.sae.encode_sparse(reading.x)


def steps_to(last: int) -> list[int]:
    """0, 1, 2, 3, 5, 7, 10, …, last: about eight a decade."""
    grid = {0, 1, last} | {round(10 ** (i / 7)) for i in range(1, 60)}
    return sorted(step for step in grid if step <= last)
