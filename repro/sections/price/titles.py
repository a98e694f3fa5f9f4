"""What each figure of the price shows, in one line over it, every number from its table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from repro.price.words import NAMES
from repro.sections.effects import FAMILIES, FAMILY_NAMES
from repro.sections.figures import name_of
from repro.sections.price.words import PARTS_OF_GUESS, by_part, final, saved
from repro.sections.types import DataFrame

OF = {"NMSE": "NMSE", "CE": "loss increase", "KL": "divergence"}
"""What the guess makes a part of."""


def of_parts(tables: Mapping[str, DataFrame], metric: str) -> str:
    """What pursuit changes of the encoder's mean increase, with its interval over variants, first language model."""
    model, table = next(iter(tables.items()))
    total = sum(by_part(table, metric, part)["value"].mean() for part in (*PARTS_OF_GUESS, "dictionary"))
    return f"{model}: pursuit changes the encoder's mean {OF[metric]} of {total:.3f} by {saved(table, metric)}"


def of_exchange(tables: Mapping[str, DataFrame]) -> str:
    """Error and loss increase of the L1 optimum and of pursuit as multiples of the encoder's, first language model."""
    model, table = next(iter(tables.items()))
    rows = final(table.dropna(subset=["CE"]))
    means = rows.groupby("mode")[["NMSE", "loss_increase"]].mean()
    times = (means / means.loc["encoder"]).loc[["optimum", "pursuit"]]
    parts = [
        f"{NAMES[str(kind)]} {row['NMSE']:.2g} and {row['loss_increase']:.2g} times" for kind, row in times.iterrows()
    ]
    return f"{model}, mean NMSE and loss increase beside the encoder's: {', '.join(parts)} ({_saes(rows)} SAEs)"


def _saes(rows: DataFrame) -> int:
    return rows.groupby(["variant", "sparsity", "seed"]).ngroups


def of_frontier(model: str, lines: Mapping[str, DataFrame], metric: str) -> str | None:
    """How many nonzeros pursuit needs for what the encoder reaches at its own; None where its line does not cover it.

    lines: rows by kind of codes, ordered by L0; the encoder's own number is the row without a k. What pursuit needs is
    read between two points of its line, both axes logarithmic.
    """
    if "pursuit" not in lines or (own := lines["encoder"][lines["encoder"]["k"].isna()]).empty:
        return None
    pursuit = lines["pursuit"][["L0", metric]].to_numpy()
    l0, value = own[["L0", metric]].iloc[0]
    x, y = np.log(pursuit[:, 0]), np.log(pursuit[:, 1])
    if not (y.min() <= np.log(value) <= y.max() and (np.diff(y) < 0).all()):  # NaN of a loss decrease fails too
        return None
    needed = np.exp(np.interp(np.log(value), y[::-1], x[::-1]))
    name = "loss increase" if metric == "loss_increase" else name_of(metric)
    return (
        f"One SAE of {model}: with {needed:.3g} nonzeros pursuit reaches the {name} that the encoder has with {l0:.3g}"
    )


def of_training(model: str, part: DataFrame, metric: str) -> str:
    """The guess's share at the first and the last step that is drawn, by what the SAEs were trained with."""
    parts = []
    for family, name in FAMILY_NAMES.items():
        rows = part[part["variant"].isin(FAMILIES[family])]
        rows = rows[rows.groupby(["variant", "sparsity"])["step"].transform("nunique") > 1]  # the lines that are drawn
        steps = rows.groupby("step")["value"].mean()
        if len(steps) > 1:
            parts.append(f"{steps.iloc[0]:.0%} → {steps.iloc[-1]:.0%} ({name}, n = {_saes(rows)})")
    return f"{model}, the guess's share of the {OF[metric]} in training: {', '.join(parts)}"
