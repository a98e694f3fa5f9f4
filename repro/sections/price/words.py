"""The price in tables and sentences: the parts by family of variants, and the kinds of codes side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from repro.metrics.loss import PRICED
from repro.price.words import NAMES
from repro.sections.effects import FAMILIES, FAMILY_NAMES, Effect, mean_over
from repro.sections.tables import tidy
from repro.sections.types import DataFrame, Series

PARTS_OF_GUESS = ("values", "support")


def final(table: DataFrame) -> DataFrame:
    """Rows of the fully trained SAEs."""
    return table[table["step"] == table["step"].max()]


def by_part(table: DataFrame, metric: str, part: str, family: str | None = None) -> DataFrame:
    """Rows of one part of one metric, fully trained SAEs, of the variants of a family if given."""
    rows = final(table)
    rows = rows[(rows["metric"] == metric) & (rows["part"] == part)]
    return rows if family is None else rows[rows["variant"].isin(FAMILIES[family])]


def share(table: DataFrame, metric: str, family: str | None = None) -> Effect:
    """The guess's share of the encoder's increase of a metric, with the interval of `over_saes`."""
    return over_saes(by_part(table, metric, "share_of_increase", family))


def saved(table: DataFrame, metric: str) -> Effect:
    """What pursuit takes off the encoder's increase of a metric, below zero, with the interval of `over_saes`.

    Its two parts, values and support, have an interval over documents each; they move together at most.
    """
    keys = ["variant", "sparsity", "seed", "documents", "n_tokens"]
    values, support = (by_part(table, metric, p).set_index(keys)[["value", "low", "high"]] for p in PARTS_OF_GUESS)
    total = -(values + support)
    return over_saes(total.rename(columns={"low": "high", "high": "low"}).reset_index())


def over_saes(rows: DataFrame) -> Effect:
    """The mean of a value an SAE, with its interval over variants, seeds and documents.

    The unit is the variant: SAEs of one variant are averaged over sparsities and seeds first. To the error between
    variants come two that all SAEs share: of the documents, and of the seeds, which set the order of the text. Where
    all SAEs are of one variant, the unit is the seed if there are several, else the SAE.
    """
    rows = rows.replace([np.inf, -np.inf], np.nan).dropna(subset=["value"])
    if not len(rows):
        return Effect(float("nan"))
    values = rows.set_index(["variant", "sparsity", "seed"])["value"]
    saes = values.groupby(["variant", "sparsity"])
    moved = (values - saes.transform("mean")).groupby("seed").mean()
    documents, several = float(document_errors(rows).mean()), len(moved) > 1
    tokens = int(rows["n_tokens"].max())
    if several and rows["variant"].nunique() == 1:
        effect = replace(mean_over(values, documents, tokens), unit="seeds")
    else:
        seeds = float(moved.std(ddof=1)) / len(moved) ** 0.5 if several else 0.0
        effect = mean_over(saes.mean(), float(np.hypot(documents, seeds)), tokens)
    return replace(effect, saes=len(rows), documents=int(rows["documents"].min()))


def document_errors(rows: DataFrame) -> Series:
    """Standard error over documents of each row, from its t interval."""
    from scipy.stats import t

    return (rows["high"] - rows["low"]) / (2 * t.ppf(0.975, rows["documents"] - 1))


def over_seeds(table: DataFrame, *keys: str) -> DataFrame:
    """Means over seeds, a row a variant, sparsity and value of the other keys."""
    return table.groupby(["variant", "sparsity", *keys], as_index=False, sort=False).mean(numeric_only=True)


def first_seed(table: DataFrame) -> DataFrame:
    """Rows of the first seed: the one whose SAEs are followed along training and over their nonzeros."""
    return table[table["seed"] == table["seed"].min()]


def without_each(table: DataFrame, metric: str) -> DataFrame:
    """The share of the guess with one variant left out, a row a variant, after a row of all; interval as in `share`."""
    import pandas as pd

    rows = {}
    for left_out in (None, *final(table)["variant"].unique()):
        effect = share(table[table["variant"] != left_out], metric)
        rows[left_out or "none"] = {"share": effect.value, "low": effect.low, "high": effect.high}
    return tidy(pd.DataFrame(rows).T.rename_axis("without"), 3)


def parts_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """A row a language model, metric and family: the encoder's increase, its three parts, the share of the guess.

    Means over SAEs, the share too: of each SAE's own share. Its interval is that of `share`.
    """
    import pandas as pd

    out = []
    for (model, table), metric, (family, name) in product(tables.items(), PRICED, FAMILY_NAMES.items()):
        effect = share(table, metric, family)
        if not effect.saes:
            continue
        means = {p: by_part(table, metric, p, family)["value"].mean() for p in ("values", "support", "dictionary")}
        row = {
            "language model": model,
            "increase of": metric,
            "trained by": name,
            "encoder": sum(means.values()),
            **means,
        }
        row |= {"share of the guess": effect.value, "low": effect.low, "high": effect.high, "SAEs": effect.saes}
        out.append(row)
    return tidy(pd.DataFrame(out), 3).set_index(["language model", "increase of", "trained by"])


def modes_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Means over fully trained SAEs, of times the median, a row a language model and kind of codes.

    Without dead rates: kinds that take long are computed on fewer tokens, on which more latents stay silent.
    """
    import pandas as pd

    columns = ["L0", "NMSE", "loss_increase", "KL", "loss_recovered_mean", "ms_per_token"]
    parts = {}
    for model, table in tables.items():
        rows = final(table)
        means = rows.groupby("mode")[[c for c in columns if c in rows]].mean()
        if "ms_per_token" in rows:
            means["ms_per_token"] = rows.groupby("mode")["ms_per_token"].median()  # other work on the machine
        parts[model] = means.reindex([name for name in NAMES if name in means.index]).rename(index=NAMES)
    return tidy(pd.concat(parts, names=["language model", "codes"]), 3)


def findings(table: DataFrame) -> str:
    """What the guess makes of the loss increase and of the divergence, from `price_parts`, in a sentence."""
    effect = share(table, "KL")
    mean = {p: by_part(table, "CE", p)["value"].mean() for p in ("values", "support", "dictionary")}
    increase, left = sum(mean.values()), mean["dictionary"]
    interval = f" [{effect.low:.0%}, {effect.high:.0%}]" if effect.low == effect.low else ""
    return (
        f"The encoder's codes raise the loss by {increase:.3f} nats a token, pursuit's by {left:.3f}: the guess makes "
        f"{1 - left / increase:.0%} of the mean increase ({mean['values']:.3f} nats come back by least squares on the "
        f"encoder's own support), and {effect.value:.0%}{interval} of the divergence from the clean model "
        f"({effect.saes} SAEs, n = {effect.n} {effect.unit})."
    )
