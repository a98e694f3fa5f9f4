"""Does the price fall with training, nonzeros or latents? Table `price_widths` and what a doubling of each changes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from repro.activations.held_out import open_meter
from repro.sections.effects import FAMILIES, Effect
from repro.sections.price.run import held_out, setting_of, split_rows
from repro.sections.price.words import final, first_seed
from repro.sections.scales import Scale
from repro.sections.setup import grid_of, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

TABLE = "price_widths"
WIDTHS = {"tiny": (128, 2048), "small": (512, 8192)}
"""Numbers of latents besides the scale's own: a quarter of it and four times as many."""
SAE = ["variant", "sparsity", "seed", "step"]


def run_widths(scale: Scale, tokens: int) -> DataFrame | None:
    """The parts of the price at several widths; the columns of `price_parts` and m, the number of latents.

    One SAE a width and k-trained variant, of its largest k: its L0 does not follow the width. Training text, steps and
    held-out documents are the scale's. None, and no table, at scales without WIDTHS.
    """
    started, setting, rows, meter = time.perf_counter(), setting_of(scale), [], None
    if scale.name not in WIDTHS:
        return None
    grid = {variant: (max(values),) for variant, values in grid_of(setting).items() if variant in FAMILIES["k"]}
    for m in (setting.m, *WIDTHS[scale.name]):
        own = setting if m == setting.m else dataclasses.replace(setting, m=m, grid=grid)
        ready = prepare(own)
        data = held_out(ready, own, tokens)
        meter = meter or open_meter(data.tokens.x.rows, tokens, ready.device)
        saes = [sae for sae in ready.finals() if sae["sparsity"] in grid.get(sae["variant"], ())]
        rows += [{"m": m} | row for row in split_rows(saes, own, data, meter, f"SAEs of {m} latents")]
    return save_table(TABLE, setting, rows, time.perf_counter() - started, tokens=tokens)


def doublings(
    parts: Mapping[str, DataFrame], prices: Mapping[str, DataFrame], widths: Mapping[str, DataFrame]
) -> DataFrame:
    """What twice the training, nonzeros or latents change: a row a language model and thing doubled.

    parts, prices, widths: `price_parts`, `price` and `price_widths` by language model. `guess`: the nats of KL to the
    clean model that the guess makes (values and support); `share`: of the encoder's KL. Intervals are t over variants.
    """
    rows = []
    for model, table in parts.items():
        l0 = prices[model][prices[model]["mode"] == "encoder"].set_index(SAE)["L0"]
        changes = {
            "training": slopes(first_seed(table[table["step"] > 0]), "step", "sparsity"),
            "nonzeros a token": slopes(final(table).join(l0, on=SAE), "L0", "seed"),
            "latents": slopes(widths[model], "m", "sparsity") if model in widths else {},
        }
        for doubled, effects in changes.items():
            row = {"language model": model, "twice the": doubled}
            rows += [row | {worth: str(effect) for worth, effect in effects.items()}] if effects else []
    return pd.DataFrame(rows).set_index(["language model", "twice the"])


def widths_findings(table: DataFrame) -> str:
    """The guess's share of the divergence at each width, and its change by a doubling, in a sentence."""
    shares = table[(table["metric"] == "KL") & (table["part"] == "share_of_increase")]
    means, saes = shares.groupby("m")["value"].mean(), shares.groupby("m").size().min()
    effect = slopes(table, "m", "sparsity")["share"]
    at = ", ".join(f"{share:.0%} at {m:,} latents" for m, share in means.items())
    return (
        f"The guess makes of the divergence {at} ({saes} k-trained SAEs a width, the same training text and "
        f"steps). Twice as many latents change the share by {effect}."
    )


def slopes(table: DataFrame, x: str, line: str) -> dict[str, Effect]:
    """Of the guess's nats and its share over log2 of a column, {} where nothing follows it.

    table: `price_parts`; line: the column that, with the variant, tells apart what is followed. Slopes of the lines of
    a variant are averaged; the unit is the variant, all are on the same documents.
    """
    parts = table[table["metric"] == "KL"].pivot_table(index=["variant", line, x], columns="part", values="value")
    points = pd.DataFrame({"guess": parts["values"] + parts["support"], "share": parts["share_of_increase"]})
    points = points.replace([np.inf, -np.inf], np.nan).dropna().reset_index()
    lines = [part for _, part in points.groupby(["variant", line]) if part[x].nunique() > 1]
    found: dict[str, Effect] = {}
    for worth in ("guess", "share") if lines else ():
        each = [(part["variant"].iloc[0], np.polyfit(np.log2(part[x]), part[worth], 1)[0]) for part in lines]
        means = pd.DataFrame(each, columns=["variant", "slope"]).groupby("variant")["slope"].mean()
        found[worth] = Effect.of(means, "variants")
    return found
