"""The sweep in tables and sentences: metrics by steps, what the steps cost, and the paper's numbers."""

from __future__ import annotations

from repro.sections.tables import paper_numbers, tidy
from repro.sections.types import DataFrame, Series

WALKS = {"as_released": "ISTA, released", "ista": "ISTA", "fista": "FISTA", "certified": "certified optimum"}


def overview(table: DataFrame) -> DataFrame:
    """Metrics by protocol and number of steps, mean over the SAEs, with the certified optimum last."""
    columns = ["cost", "NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "absorption_null"]
    means = table.groupby(["protocol", table["steps"].mask(table["steps"] < 0, float("inf"))])[columns].mean()
    names = {steps: "optimum" if steps == float("inf") else f"{steps:g}" for steps in means.index.levels[1]}
    return tidy(means.rename(index=names, level="steps"))


def first_near(table: DataFrame) -> DataFrame:
    """The first number of corrected steps whose NMSE lies in the optimum's interval, with its cost, a row an SAE.

    The cost is in encoder passes; both are NaN where no number of steps of the table gets there. No row without an
    optimum.
    """
    import pandas as pd

    rows = {}
    for (variant, sparsity), part in table[table["protocol"] == "corrected"].groupby(["variant", "sparsity"]):
        certified, walk = part[part["steps"] < 0], part[part["steps"] >= 0].sort_values("steps")
        if certified.empty:
            continue
        best = certified.iloc[0]
        near = walk[walk["NMSE"].between(best["NMSE_low"], best["NMSE_high"])]
        steps, passes = near[["steps", "cost"]].iloc[0] if len(near) else (float("nan"), float("nan"))
        row = {"optimum low": best["NMSE_low"], "high": best["NMSE_high"]}
        rows[f"{variant} {sparsity:g}"] = row | {"steps": steps, "passes": passes}
    return pd.DataFrame(rows).T.rename_axis("SAE").round(4)


def costs(table: DataFrame, fista: DataFrame | None) -> DataFrame:
    """Both tables in one, with `way`: as_released, ista, fista or certified. fista: None where no SAE has a λ."""
    import pandas as pd

    both = pd.concat([table, fista], ignore_index=True).dropna(subset=["steps"])
    return both.assign(way=both["solver"].where(both["protocol"] == "corrected", "as_released"))


def findings(table: DataFrame, fista: DataFrame | None) -> str:
    """The error that the steps leave and their cost, in sentences, every number from the tables."""
    columns = ["NMSE", "L0", "flops_per_token", "ms_per_token"]
    mean = costs(table, fista).groupby(["way", "steps"])[columns].mean()
    if "certified" not in mean.index:
        return "The corrected sweep has no λ: its encoders are denser than any optimum."
    best = mean.loc["certified"].iloc[0]
    out = [f"The encoder leaves {_left(mean.loc['ista'].iloc[0])}."]
    for way in ("ista", "fista"):
        part = mean.loc[way]
        out.append(f"{part.index[-1]} {WALKS[way]} steps leave {_left(part.iloc[-1])}.")
    out.append(
        f"The certified optimum of the same λ has NMSE {best['NMSE']:.4g} and L0 {best['L0']:.1f}, in "
        f"{best['ms_per_token']:.3g} ms a token."
    )
    return " ".join(out)


def _left(row: Series) -> str:
    """Error, nonzeros and cost. Not for the optimum, most of whose work is not counted as FLOPs."""
    cost = f"{row['flops_per_token']:.3g} FLOPs and {row['ms_per_token']:.3g} ms a token"
    return f"NMSE at {row['NMSE']:.4g} and L0 at {row['L0']:.1f}, for {cost}"


def paper_says() -> str:
    """The errors that the paper reports along its sweep, in a sentence, from data/paper.csv."""
    table = paper_numbers("W5", "W25", "W50")
    errors, steps = [f"{v:.3f}" for v in table["NMSE"]], [name[1:] for name in table.index]
    models = " and ".join(table["subject"].str.split(" sweep").str[0].unique())
    return f"The paper's {models}: NMSE {_listed(errors)} after {_listed(steps)} steps."


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def paper_rows() -> DataFrame:
    """The numbers that the paper reports for its sweep."""
    return paper_numbers("W5", "W25", "W50", "V5", "V25", "V50")
