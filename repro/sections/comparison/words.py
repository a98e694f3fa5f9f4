"""The comparison in tables and sentences."""

from __future__ import annotations

from repro.metrics.names import METRIC_COLUMNS
from repro.sections.tables import tidy
from repro.sections.types import DataFrame


def overview(table: DataFrame) -> DataFrame:
    """Mean over sparsities of each metric by protocol, variant and mode."""
    columns = [c for c in (*METRIC_COLUMNS, "absorption_null", "lam") if c in table]
    return tidy(table.groupby(["protocol", "variant", "mode"], sort=False)[columns].mean())


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


def changes(table: DataFrame) -> DataFrame:
    """Metric of a mode minus metric of the encoder, SAE by SAE, corrected protocol."""
    import pandas as pd

    keys, metrics = ["variant", "sparsity"], [m for m in METRIC_COLUMNS if m in table]
    by_mode = dict(iter(table[table["protocol"] == "corrected"].set_index(keys).groupby("mode")))
    parts = [
        (by_mode[mode][metrics] - by_mode["amortized"][metrics]).dropna(how="all").assign(mode=mode).reset_index()
        for mode in ("semi", "non")
    ]
    return tidy(pd.concat(parts, ignore_index=True))
