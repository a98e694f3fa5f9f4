"""The comparison in tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping

from repro.metrics.names import MODES, PROTOCOL_NAMES
from repro.sections.tables import short
from repro.sections.types import DataFrame

SHOWN = {
    "NMSE": "NMSE",
    "L0": "L0",
    "dead_rate": "dead",
    "dense@0.1": "dense",
    "dF1": "ΔF1",
    "absorption": "absorption",
}
"""Columns of the overview, by metric."""


def overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Means over sparsities, a row a language model, variant and protocol: encoder → 30 steps → optimum.

    tables: `comparison` by language model.
    """
    import pandas as pd

    rows = []
    for model, table in tables.items():
        for (variant, protocol), part in table.groupby(["variant", "protocol"], sort=False):
            means = part.groupby("mode")[[metric for metric in SHOWN if metric in part]].mean()
            means = means.reindex([mode for mode in MODES if mode in means.index])
            cells = {SHOWN[metric]: " → ".join(map(short, values)) for metric, values in means.items()}
            rows.append({"language model": model, "variant": variant, "protocol": PROTOCOL_NAMES[protocol], **cells})
    return pd.DataFrame(rows).set_index(["language model", "variant", "protocol"])


def findings(table: DataFrame) -> str:
    """The comparison in sentences, every number from the table."""
    mean = table.groupby(["protocol", "mode"])[["NMSE", "NMSE_refit", "L0", "dead_rate", "dense@0.1"]].mean()
    d, m, n = int(table["d"].iloc[0]), int(table["m"].iloc[0]), len(table.groupby(["variant", "sparsity"]))
    before, after = (mean.loc["as_released", mode] for mode in ("amortized", "semi"))
    encoder, semi, best = (mean.loc["corrected", mode] for mode in ("amortized", "semi", "non"))
    return (
        f"Mean over {n} SAE{'s' * (n > 1)}. **As released**, semi-amortized inference takes NMSE from "
        f"{before['NMSE']:.3g} to {after['NMSE']:.3g}, with {after['L0']:.0f} nonzeros a token of {m:,} latents (an "
        f"optimum has at most d = {d}); dead latents go from {before['dead_rate']:.1%} to {after['dead_rate']:.1%}, "
        f"latents that fire on a tenth of the tokens from {before['dense@0.1']:.1%} to {after['dense@0.1']:.1%}. "
        f"**Corrected**, at the encoder's own L0 of {encoder['L0']:.1f}, NMSE goes from {encoder['NMSE']:.3g} "
        f"(encoder) to {semi['NMSE']:.3g} (semi) and {best['NMSE']:.3g} (certified optimum). The L1 term shrinks "
        f"every code; least squares on the same support takes that away: {encoder['NMSE_refit']:.3g}, "
        f"{semi['NMSE_refit']:.3g} and {best['NMSE_refit']:.3g}. Dead latents: {encoder['dead_rate']:.1%} to "
        f"{semi['dead_rate']:.1%} and {best['dead_rate']:.1%}."
    )
