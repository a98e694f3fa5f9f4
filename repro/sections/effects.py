"""Effects with intervals, read off tables: changes by inference mode, slopes over sparsity, changes along training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.sections.types import DataFrame, Series

FAMILIES = {
    "L1": ("standard",),
    "gates": ("gated",),
    "k": ("topk", "batch_topk", "matryoshka_batch_topk", "jumprelu"),
}
"""Variants by what makes them sparse in training: L1 on the codes, L1 on gates, or a k (JumpReLU: a target L0)."""
FAMILY_NAMES = {"L1": "L1-trained", "gates": "gated", "k": "k-trained"}
QUANTITIES = {
    "NMSE": "the error",
    "dead_rate": "the share of dead latents",
    "dense@0.1": "the share of dense latents",
    "excess": "absorption − chance",
    "dF1": "ΔF1",
}
"""Metric -> its name in sentences."""
Tables = dict[str, DataFrame]
"""Name of a result table -> its rows at one scale."""


@dataclass(frozen=True)
class Effect:
    """An estimate with its standard error, 95 % t interval, and what it was taken over."""

    value: float
    se: float = float("nan")
    n: int = 0
    """Independent units."""
    unit: str = "SAEs"
    saes: int = 0
    tokens: int = 0
    """Tokens that it was evaluated on: it is about these, not about all text."""
    documents: int = 0
    """Documents whose choice is part of the standard error; 0 where it is not."""

    @classmethod
    def of(cls, values: Iterable[float], unit: str = "SAEs", shared: float = 0.0) -> Effect:
        """Mean of independent values; `shared` is the standard error of what they have in common, such as the text."""
        v = np.asarray([x for x in values if np.isfinite(x)], dtype=float)
        if len(v) == 0:
            return cls(float("nan"), unit=unit)
        se = (v.var(ddof=1) / len(v) + shared**2) ** 0.5 if len(v) > 1 else float("nan")
        return cls(float(v.mean()), float(se), len(v), unit, saes=len(v))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of its standard error: of its fewest independent parts, units or documents."""
        return min(self.n, self.documents or self.n) - 1

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; NaN below two units or documents."""
        from scipy.stats import t

        return float(t.ppf(0.975, self.freedom) * self.se) if self.freedom > 0 else float("nan")

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + self.half

    def p(self, bound: float) -> float:
        """Two-sided p of the t test that the effect equals the bound; NaN below two units or documents."""
        from scipy.stats import t

        if self.freedom < 1 or not np.isfinite(self.se) or (self.se == 0 and self.n < 3):  # two that agree by chance
            return float("nan")
        distance = abs(self.value - bound)
        if self.se == 0:
            return 0.0 if distance > 0 else 1.0
        return float(2 * t.sf(distance / self.se, self.freedom))

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "–"
        interval = f" [{self.low:+.3f}, {self.high:+.3f}]" if np.isfinite(self.half) else ""
        return f"{self.value:+.3f}{interval}, n = {self.n} {self.unit}"


def group_of(claim: str) -> str:
    """The claim that a part belongs to: C10b -> C10."""
    return re.sub(r"(?<=\d)[a-z]+$", "", claim)


def order_of(claim: str) -> tuple[str, int, str]:
    """Sort key of an id: C2 before C10a before C10b."""
    group = group_of(claim)
    letters = group.rstrip("0123456789")
    return letters, int(group[len(letters) :] or 0), claim


def prepared(table: DataFrame) -> DataFrame:
    """The table with the column excess = absorption − its density null, where it has both."""
    if "excess" in table or "absorption_null" not in table:
        return table
    return table.assign(excess=table["absorption"] - table["absorption_null"])


def keys_of(table: DataFrame) -> list[str]:
    """Columns that tell SAEs apart."""
    return ["variant", "sparsity", *(["seed"] if "seed" in table else [])]


def mean_over(values: Series, shared: float = 0.0, tokens: int = 0) -> Effect:
    """The mean of one value an SAE, with the interval of its independent units; index: keys_of.

    Sparsities of one variant and seed share their training text, its order and their initialisation, so the unit is
    the variant and seed. Where all SAEs are of one variant and seed the unit is the SAE, and the effect is about that
    variant alone. `shared`: standard error by the choice of documents, which all SAEs share.
    """
    values = values.replace([np.inf, -np.inf], np.nan).dropna()
    by = [name for name in values.index.names if name in ("variant", "seed")]
    groups = values.groupby(by).mean()
    several = len(groups) > 1
    seeds = values.index.get_level_values("seed").nunique() if "seed" in by else 1
    names = "variants" if seeds == 1 else "variants and seeds"
    out = Effect.of(groups if several else values, names if several else "SAEs", shared)
    return replace(out, saes=len(values), tokens=tokens)


def of_family(table: DataFrame, family: str | None) -> DataFrame:
    """Rows of the variants of a family; all rows for None."""
    return table if family is None else table[table["variant"].isin(FAMILIES[family])]


def cells(table: DataFrame, mode: str, metric: str, protocol: str = "corrected") -> Series:
    """A metric under one inference mode and protocol, an SAE each."""
    table = prepared(table)
    part = table[(table["protocol"] == protocol) & (table["mode"] == mode)]
    return (
        part.groupby(keys_of(table))[metric].mean() if metric in part else part.groupby(keys_of(table)).size() * np.nan
    )


def changes(
    table: DataFrame, mode: str, metric: str, protocol: str = "corrected", against: str = "amortized"
) -> Series:
    """The change that a mode makes to a metric, against the encoder or another mode, an SAE each."""
    return (cells(table, mode, metric, protocol) - cells(table, against, metric, protocol)).dropna()


def by_mode(tables: Tables) -> DataFrame:
    """Rows of the comparison and, where there are any, of the controls."""
    import pandas as pd

    return pd.concat([tables[name] for name in ("comparison", "controls") if name in tables], ignore_index=True)


def refined(tables: Tables, mode: str, metric: str, family: str | None = None, against: str = "amortized") -> Effect:
    """The change by a mode at matched L0: from the table over documents and all variants where it has the metric.

    There, each SAE's interval over documents gives its standard error. Documents are shared by all SAEs, so their
    errors are taken as fully correlated, which is the most that they can add.
    """
    documents = tables.get("documents")
    if documents is not None and against == "amortized":
        rows = documents[(documents["mode"] == mode) & (documents["metric"] == metric)]
        rows = of_family(rows[rows["variant"] != "all SAEs"], family)
        if len(rows):
            values, shared = rows.set_index(keys_of(rows))["difference"], float(standard_errors(rows).mean())
            effect = mean_over(values, shared, int(rows["tokens"].max()))
            return replace(effect, documents=int(rows["documents"].min()))
    table = of_family(by_mode(tables), family)
    tokens = int(table.loc[table["protocol"] == "corrected", "n_tokens"].max()) if "n_tokens" in table else 0
    return mean_over(changes(table, mode, metric, against=against), tokens=tokens)


def standard_errors(rows: DataFrame) -> Series:
    """Standard error over documents, an SAE each: as stored, else from an interval of ± 1.96 of them."""
    return rows["se"] if "se" in rows else (rows["high"] - rows["low"]) / (2 * 1.959964)


def along(tables: Tables) -> DataFrame:
    """Checkpoints along training: of all variants where those trajectories were computed, else of the two of §4.3."""
    return prepared(tables.get("trajectories", tables["dynamics"]))


def trained(tables: Tables) -> DataFrame:
    """Fully trained SAEs at several sparsities: the last checkpoints of the trajectories, else the comparison's."""
    if "trajectories" not in tables:
        return prepared(tables["comparison"])
    table = prepared(tables["trajectories"])
    return table[table["step"] == table["step"].max()]


def per_halving(table: DataFrame, metric: str, protocol: str = "corrected") -> Effect:
    """The change of the encoder's metric when its L0 halves: a slope over −log2 L0 for each variant (and seed).

    L0 is that of the corrected protocol, whatever the protocol of the metric: it says which SAE is the sparser.
    """
    encoder = table[table["mode"] == "amortized"]
    l0, values = cells(encoder, "amortized", "L0"), cells(encoder, "amortized", metric, protocol)
    pairs = (-np.log2(l0)).to_frame("x").join(values.rename("y"), how="inner").dropna()
    by = [name for name in pairs.index.names if name != "sparsity"]
    slopes = [float(np.polyfit(g["x"], g["y"], 1)[0]) for _, g in pairs.groupby(by) if g["x"].nunique() > 1]
    tokens = encoder.loc[encoder["protocol"] == protocol, "n_tokens"].max() if "n_tokens" in encoder else 0
    return replace(Effect.of(slopes, "variants"), saes=len(pairs), tokens=int(tokens))


EARLY, LATE = "early", "late"
TENTH = 0.1  # of training: where early ends and late begins


def over_training(table: DataFrame, metric: str, period: str, protocol: str = "corrected") -> Series:
    """The change of a metric over the first tenth of training or the rest, an SAE each: its slope per token times the
    tokens of the period. Checkpoints lie evenly on a logarithmic axis, which ranks over them would take for training.
    Step 0, where nothing is trained, is left out.
    """
    part = table[(table["protocol"] == protocol) & (table["step"] > 0)]
    last = part["step"].max()
    early = period == EARLY
    part = part[part["step"] <= TENTH * last] if early else part[part["step"] >= TENTH * last]
    part = part.dropna(subset=[metric])
    if part.empty:
        return part.set_index(keys_of(part))[metric]
    slopes = part.groupby(keys_of(part)).apply(lambda line: _slope(line["step"], line[metric]), include_groups=False)
    return slopes * last * (TENTH if early else 1 - TENTH)


def _slope(x: Series, y: Series) -> float:
    return float(np.polyfit(x, y, 1)[0]) if x.nunique() > 1 else float("nan")


def trend(table: DataFrame, metric: str, period: str, variants: Sequence[str] | None = None) -> Effect:
    """The mean of `over_training` over SAEs, of some variants only if given."""
    part = table if variants is None else table[table["variant"].isin(list(variants))]
    if part.empty:
        return Effect(float("nan"))
    tokens = int(part["n_tokens"].max()) if "n_tokens" in part else 0
    return mean_over(over_training(part, metric, period), tokens=tokens)


def listed(effects: Mapping[str, Effect | float]) -> str:
    """Values by name in one line, without their intervals."""
    return ", ".join(f"{name} {e.value if isinstance(e, Effect) else e:+.3f}" for name, e in effects.items())
