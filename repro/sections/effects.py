"""The parts of a verdict: a claim with its test, an effect with its interval, and effects read off tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.sections.types import DataFrame

HOLDS, FAILS, PART = "holds", "does not hold", "holds in part"
OPEN, UNTESTED = "not settled", "cannot be tested here"
NOT_RUN = "not yet run"
PATHOLOGIES = ("dead_rate", "dense@0.1", "absorption", "dF1")

RISES = "holds if the 95 % interval of the corrected effect lies above 0, does not hold if below"
FALLS = "holds if the 95 % interval of the corrected effect lies below 0, does not hold if above"
LOWERS = "lowers dead, dense, absorption and ΔF1 (95 % intervals below 0); in part if some; does not if none"
"""Rules that claims of several sections share."""


@dataclass(frozen=True)
class Effect:
    """An estimate with its 95 % interval and what it was taken over."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0

    @classmethod
    def of(cls, values: Any) -> Effect:
        """Mean of independent values (one an SAE or a trajectory) with a t interval."""
        from scipy.stats import t

        v = np.asarray([x for x in values if np.isfinite(x)], dtype=float)
        if len(v) == 0:
            return cls(float("nan"))
        half = float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else float("nan")
        return cls(float(v.mean()), float(v.mean() - half), float(v.mean() + half), len(v))

    @property
    def below(self) -> bool:
        """The whole interval lies below 0."""
        return self.high < 0

    @property
    def above(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0

    @property
    def rises(self) -> str:
        """The verdict on the claim that the effect is positive."""
        return HOLDS if self.above else FAILS if self.below else OPEN

    @property
    def falls(self) -> str:
        """The verdict on the claim that the effect is negative."""
        return HOLDS if self.below else FAILS if self.above else OPEN

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "–"
        if not np.isfinite(self.low):
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


@dataclass(frozen=True)
class Finding:
    """The result of one test at one scale."""

    released: Effect | str
    corrected: Effect | str
    verdict: str
    why: str = ""


Tables = dict[str, DataFrame]
"""Name of a result table -> its rows at one scale."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the ledger."""

    id: str
    """A claim and its part: C5a is part a of claim C5."""
    section: str
    """Notebook that shows it."""
    statement: str
    """The paper's claim in our words."""
    paper: str = "–"
    """The number that the paper reports for it."""
    test: Callable[[Tables], Finding]
    rule: str
    """How the verdict follows from the effect, in words."""
    needs: tuple[str, ...]
    """Tables that the test needs."""
    uses: tuple[str, ...] = ()
    """Tables that it prefers where they exist: more variants and sparsities."""


def group_of(claim: str) -> str:
    """The claim that a part belongs to: C10b -> C10."""
    return re.sub(r"(?<=\d)[a-z]+$", "", claim)


def order_of(claim: str) -> tuple[str, int, str]:
    """Sort key of an id: C2 before C10a before C10b."""
    group = group_of(claim)
    letters = group.rstrip("0123456789")
    return letters, int(group[len(letters) :] or 0), claim


def listed(effects: Mapping[str, Effect | str]) -> str:
    """Effects by name in one line, without their intervals."""
    return "; ".join(f"{name} {e if isinstance(e, str) else f'{e.value:+.3f}'}" for name, e in effects.items())


def difference(table: DataFrame, protocol: str, mode: str, metric: str) -> Effect:
    """Mean over SAEs of metric(mode) − metric(amortized) under one protocol."""
    part = table[table["protocol"] == protocol].set_index(["variant", "sparsity", "mode"])[metric].unstack("mode")
    if mode not in part or "amortized" not in part:
        return Effect(float("nan"))
    return Effect.of((part[mode] - part["amortized"]).to_numpy())


def refined(tables: Tables, mode: str, metric: str) -> Effect:
    """The change by a mode at matched L0: over resampled documents and SAEs where that was computed, else over SAEs."""
    table = tables.get("documents")
    if table is not None:
        rows = table[(table["variant"] == "all SAEs") & (table["mode"] == mode) & (table["metric"] == metric)]
        if len(rows):
            row = rows.iloc[0]
            return Effect(float(row["difference"]), float(row["low"]), float(row["high"]), int(row["saes"]))
    return difference(tables["comparison"], "corrected", mode, metric)


def along(tables: Tables) -> DataFrame:
    """Checkpoints along training: of all variants where those trajectories were computed, else of the two of §4.3."""
    return tables.get("trajectories", tables["dynamics"])


def trained(tables: Tables) -> DataFrame:
    """Fully trained SAEs at several sparsities: the last checkpoints of the trajectories, else the comparison's."""
    if "trajectories" not in tables:
        return tables["comparison"]
    table = tables["trajectories"]
    return table[table["step"] == table["step"].max()]


def sparsity(metric: str) -> Callable[[Tables], Finding]:
    """The test whether a metric rises with sparsity."""

    def test(tables: Tables) -> Finding:
        released = sparsest_minus_densest(tables["comparison"], "as_released", metric)
        corrected = sparsest_minus_densest(trained(tables), "corrected", metric)
        return Finding(released, corrected, corrected.rises)

    return test


def lowered(effects: Mapping[str, Effect], released: str, inference: str) -> Finding:
    """The verdict on the claim that an inference lowers all pathologies, from its effect on each of them."""
    names = [metric for metric, effect in effects.items() if effect.below]
    if len(names) == len(effects):
        return Finding(released, listed(effects), HOLDS)
    if not names:
        return Finding(released, listed(effects), FAILS, f"{inference} lowers none of the four")
    return Finding(released, listed(effects), PART, f"{inference} lowers only {', '.join(names)}")


def sparsest_minus_densest(table: DataFrame, protocol: str, metric: str) -> Effect:
    """Mean over variants of the metric of the sparsest minus that of the densest SAE (by measured corrected L0)."""
    amortized = table[table["mode"] == "amortized"]
    order = amortized[amortized["protocol"] == "corrected"].set_index(["variant", "sparsity"])["L0"]
    values = amortized[amortized["protocol"] == protocol].set_index(["variant", "sparsity"])[metric]
    out = []
    for variant in order.index.get_level_values(0).unique():
        l0 = order[variant]
        if len(l0) > 1 and variant in values.index:
            out.append(values[variant][l0.idxmin()] - values[variant][l0.idxmax()])
    return Effect.of(out)
