"""What a verdict is made of: an effect with its interval, the words of verdicts, and effects read off tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = ("as_released", "corrected")
HOLDS, FAILS, PART = "holds", "does not hold", "holds in part"
OPEN, UNTESTED = "not settled", "cannot be tested here"
NOT_RUN = "not yet run"


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

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "–"
        if not np.isfinite(self.low):
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


@dataclass(frozen=True)
class Finding:
    """What one test found at one scale."""

    released: Effect | str
    corrected: Effect | str
    verdict: str
    why: str = ""


Tables = dict[str, "pd.DataFrame"]


def difference(table: pd.DataFrame, protocol: str, mode: str, metric: str) -> Effect:
    """Mean over SAEs of metric(mode) − metric(amortized) under one protocol."""
    part = table[table["protocol"] == protocol].set_index(["variant", "sparsity", "mode"])[metric].unstack("mode")
    if mode not in part or "amortized" not in part:
        return Effect(float("nan"))
    return Effect.of((part[mode] - part["amortized"]).to_numpy())


def refined(tables: Tables, mode: str, metric: str) -> Effect:
    """What a mode changes at matched L0: over resampled documents and SAEs where that was computed, else over SAEs."""
    table = tables.get("documents")
    if table is not None:
        rows = table[(table["variant"] == "all SAEs") & (table["mode"] == mode) & (table["metric"] == metric)]
        if len(rows):
            row = rows.iloc[0]
            return Effect(float(row["difference"]), float(row["low"]), float(row["high"]), int(row["saes"]))
    return difference(tables["comparison"], "corrected", mode, metric)


def along(tables: Tables) -> pd.DataFrame:
    """Checkpoints along training: of all variants where those trajectories were computed, else of the two of §4.3."""
    return tables.get("trajectories", tables["dynamics"])


def trained(tables: Tables) -> pd.DataFrame:
    """Fully trained SAEs at several sparsities: the last checkpoints of the trajectories, else the comparison's."""
    if "trajectories" not in tables:
        return tables["comparison"]
    table = tables["trajectories"]
    return table[table["step"] == table["step"].max()]


def sparsest_minus_densest(table: pd.DataFrame, protocol: str, metric: str) -> Effect:
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
