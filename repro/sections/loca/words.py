"""LocA-SAE in tables and sentences: its difference from every other form."""

from __future__ import annotations

from repro.sections.effects import Effect
from repro.sections.loca.run import FORM_NAMES
from repro.sections.tables import paper_numbers, tidy
from repro.sections.types import DataFrame, Series

COMPARED = ("NMSE", "dead_rate", "dense@0.1", "dF1", "absorption")


def overview(table: DataFrame) -> DataFrame:
    """Mean over seeds of each metric, by protocol and form."""
    columns = ["L0", "NMSE", "FVE", *COMPARED[1:], "absorption_null", "extra_steps", "encode_us_per_token"]
    out = tidy(table.groupby(["protocol", "k", "form"], sort=False)[columns].mean())
    return out.rename(index=FORM_NAMES, level="form")


def differences(table: DataFrame, form: str = "loca", against: str = "topk", metric: str = "NMSE") -> Series:
    """metric(form) - metric(against), corrected protocol, one value a seed (mean over k), indexed by seed."""
    part = table[table["protocol"] == "corrected"]
    wide = part.pivot_table(index=["seed", "k"], columns="form", values=metric)
    return (wide[form] - wide[against]).groupby("seed").mean()


def effects(table: DataFrame) -> DataFrame:
    """LocA minus every other form: mean over seeds with a 95 % t interval, a row a form and metric."""
    import pandas as pd

    rows = []
    for against in [f for f in FORM_NAMES if f in set(table["form"]) and f != "loca"]:
        for metric in COMPARED:
            effect = Effect.of(differences(table, "loca", against, metric), "seeds")
            row = {"against": FORM_NAMES[against], "metric": metric, "effect": effect.value}
            rows.append(row | {"low": effect.low, "high": effect.high, "seeds": effect.n})
    return pd.DataFrame(rows)


def effects_table(table: DataFrame) -> DataFrame:
    """`effects` as a table to read: a row a form, a column a metric, effect [interval]."""
    long = effects(table)
    long["text"] = [
        f"{v:+.3f}" + (f" [{a:+.3f}, {b:+.3f}]" if a == a else "")
        for v, a, b in zip(long["effect"], long["low"], long["high"])
    ]
    return long.pivot(index="against", columns="metric", values="text").loc[long["against"].unique(), list(COMPARED)]


def findings(table: DataFrame) -> str:
    """The ablations in sentences, every number from the table."""
    mean = table[table["protocol"] == "corrected"].groupby("form")[["L0", "FVE", *COMPARED]].mean()
    loca, plain, chance, grouped = (mean.loc[form] for form in ("loca", "topk", "random", "as_released"))
    released = table[table["protocol"] == "as_released"][["NMSE", "L0"]].mean()
    stopped = int(table.loc[table["form"] == "as_released", "extra_steps"].max())
    m, seeds = int(table["m"].iloc[0]), table["seed"].nunique()
    return (
        f"**As released**, each training phase stops after {stopped} step, because a reconstruction of zero already "
        f"meets its target: NMSE {grouped['NMSE']:.3g} with its true group top-k; converted and read as a plain ReLU, "
        f"{released['NMSE']:.3g} at {released['L0']:.0f} of {m:,} latents a token. **Corrected** (mean "
        f"over {seeds} seed{'s' if seeds > 1 else ''}), LocA-SAE has NMSE {loca['NMSE']:.4f} at L0 {loca['L0']:.1f}; "
        f"the same Top-K SAE trained on for as long has {plain['NMSE']:.4f} at L0 {plain['L0']:.1f}. Dead latents "
        f"{loca['dead_rate']:.1%} against {plain['dead_rate']:.1%}, absorption {loca['absorption']:.3f} against "
        f"{plain['absorption']:.3f}, ΔF1 {loca['dF1']:+.3f} against {plain['dF1']:+.3f}. With random groups: NMSE "
        f"{chance['NMSE']:.4f}, dead {chance['dead_rate']:.1%}, absorption {chance['absorption']:.3f}, ΔF1 "
        f"{chance['dF1']:+.3f}."
    )


def paper_rows() -> DataFrame:
    """The paper's LocA rows beside its Top-K and BatchTopK encoders."""
    return paper_numbers("S1", "S3", "S5", "S9")
