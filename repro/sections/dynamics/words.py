"""The dynamics in tables: both ends of each trajectory, what was trained, and what moves with the gap."""

from __future__ import annotations

from collections.abc import Mapping

from repro.sections.types import DataFrame
from repro.training.recipe import SPARSITY_NAME, TRAINED

GAPS = {"as_released": "amort_gap_mean", "corrected": "amort_gap_relative"}
"""The column that holds the gap under a protocol."""


SHOWN = {
    "NMSE": "NMSE",
    "L0": "L0",
    "dead_rate": "the dead rate",
    "dense@0.1": "the share of dense latents",
    "dF1": "ΔF1",
    "absorption": "absorption",
    "amort_gap_relative": "the gap",
    "amort_gap_mean": "the gap",
}
"""Metric -> its name in titles."""
UNITS = {
    "NMSE": "NMSE",
    "L0": "L0",
    "dead_rate": "share dead",
    "dense@0.1": "share dense",
    "dF1": "ΔF1",
    "absorption": "share of positives",
    "amort_gap_relative": "share of objective",
    "amort_gap_mean": "units of ‖x‖²",
}
"""Metric -> its short name or unit, along a low axis."""


def sparser(variant: str, sparsity: float) -> float:
    """A number that falls as the SAE gets sparser: k, or minus the L1 coefficient."""
    return -sparsity if SPARSITY_NAME[variant] == "l1_penalty" else sparsity


def finals(table: DataFrame) -> DataFrame:
    """The trained SAEs, corrected."""
    part = table[table["protocol"] == "corrected"]
    return part[part["step"] == part.groupby(["variant", "sparsity"])["step"].transform("max")]


def as_configured(tables: Mapping[str, DataFrame]) -> DataFrame:
    """The first and the last SAE of each variant by L0: the sparsity asked for, and what it has after training.

    tables: checkpoints by language model.
    """
    import pandas as pd

    order = {v: i for i, v in enumerate(TRAINED)}
    out = []
    for model, table in tables.items():
        part = finals(table).assign(asked=lambda t: [SPARSITY_NAME[v] for v in t["variant"]])
        part = part.sort_values(["variant", "L0"], key=lambda c: c.map(order) if c.name == "variant" else c)
        out.append(part.groupby("variant", sort=False).nth([0, -1]).assign(**{"language model": model}))
    columns = ["asked", "sparsity", "L0", "FVE", "dead_rate", "dense@0.1", "amort_gap_relative"]
    return pd.concat(out).set_index(["language model", "variant"])[columns].round(3)


def gap_correlations(table: DataFrame, protocol: str = "corrected") -> DataFrame:
    """Spearman correlation, over the trained checkpoints of each trajectory, of the gap with each metric (claim C4).

    The gap is relative, (J − J*) / J, where the table has it; step 0 is left out, since nothing is trained there. NaN
    where a metric does not change along a trajectory.
    """
    import pandas as pd

    rows = []
    gap = GAPS[protocol]
    part = table[(table["protocol"] == protocol) & (table["step"] > 0)]
    for (variant, sparsity), line in part.groupby(["variant", "sparsity"], sort=False):
        for metric in ("step", "NMSE", "dead_rate", "dense@0.1", "absorption", "dF1"):
            if metric not in line:
                continue
            pair = line[[gap, metric]].dropna()
            defined = len(pair) > 2 and pair.nunique().min() > 1
            rho = pair[gap].corr(pair[metric], method="spearman") if defined else float("nan")
            rows.append({"variant": variant, "sparsity": sparsity, "metric": metric, "rho": rho, "points": len(pair)})
    return pd.DataFrame(rows)
