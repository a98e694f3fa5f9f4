"""The ledger: claims judged at a scale, part by part, and one word and one sentence for each claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from repro.base.errors import BadInput, nearest
from repro.sections.effects import Effect, Tables, group_of, order_of
from repro.sections.margins import margin_of
from repro.sections.scales import SCALES
from repro.sections.tables import load_table
from repro.sections.types import DataFrame, Series
from repro.sections.verdict import MOST, NOT_RUN, OPEN, Claim, Finding, Verdict, bound_of, judge, whole

FEW = 3
"""Open parts up to which the sentence of a claim names them."""


def ledger(claims: Iterable[Claim], scale: str, tables: Tables | None = None) -> DataFrame:
    """A row a part with its verdict at one scale; tables are read where none are given. BadInput: unknown scale.

    Parts of a claim are judged together, so all of them have to be among `claims`.
    """
    import pandas as pd

    if scale not in SCALES:
        raise BadInput(f"No scale '{scale}'{nearest(scale, SCALES)}; there are {', '.join(SCALES)}.")
    claims = sorted(claims, key=lambda c: order_of(c.id))
    if tables is None:  # each is read once
        names = {name for c in claims for name in (*c.needs, *c.uses)}
        tables = {name: table for name in names if (table := load_table(name, scale)) is not None}
    rows: list[dict[str, Any]] = []
    for _, group in groupby(claims, key=lambda c: group_of(c.id)):
        parts = list(group)
        findings = {c.id: found for c in parts if (found := finding_of(c, tables)) is not None}
        verdicts = judge(parts, findings)
        rows += [_row(claim, scale, findings.get(claim.id), verdicts[claim.id]) for claim in parts]
    return pd.DataFrame(rows)


def finding_of(claim: Claim, tables: Tables) -> Finding | None:
    """What the test of a claim finds in the tables; None where a table that it needs does not exist."""
    present = {n: tables[n] for n in (*claim.needs, *claim.uses) if tables.get(n) is not None}
    return claim.test(present) if set(claim.needs) <= set(present) else None


def _row(claim: Claim, scale: str, finding: Finding | None, verdict: Verdict) -> dict[str, Any]:
    """A row of the ledger."""
    effect = finding.corrected if finding else Effect(float("nan"), unit="")
    released = finding.released if finding else "–"
    numbers = {"value": effect.value, "low": effect.low, "high": effect.high}
    return {
        "claim": claim.id,
        "statement": claim.statement,
        "paper": claim.paper,
        "scale": scale,
        "as_released": str(released),
        "corrected": str(effect),
        "verdict": verdict.word,
        "needed": verdict.needed,
        "why": finding.why if finding else "",
        "metric": claim.metric,
        "claimed": claim.claimed,
        "margin": margin_of(claim.metric),
        **{name: float(f"{number:.6g}") for name, number in numbers.items()},
        "n": effect.n,
        "unit": effect.unit,
        "saes": effect.saes,
        "tokens": effect.tokens,
        "section": claim.section,
    }


def summary(table: DataFrame, claims: Iterable[Claim], leads: Mapping[str, str]) -> DataFrame:
    """A row a claim of a ledger: its word, its sentence, and the most SAEs and tokens that a part rests on."""
    import pandas as pd

    by_id = {claim.id: claim for claim in claims}
    rows = []
    for group, parts in table.groupby(table["claim"].map(group_of), sort=False):
        rows.append(
            {
                "claim": group,
                "scale": parts["scale"].iloc[0],
                "verdict": whole(list(parts["verdict"])),
                "sentence": sentence(leads.get(str(group), ""), parts, by_id),
                "saes": int(parts["saes"].max()),
                "tokens": int(parts["tokens"].max()),
            }
        )
    return pd.DataFrame(rows)


def sentence(lead: str, parts: DataFrame, claims: Mapping[str, Claim]) -> str:
    """What the tables say about a claim: effects that are settled, then what does not change, then what is open."""
    moved: list[str] = []
    same: list[str] = []
    unsettled: list[str] = []
    for _, row in parts.iterrows():
        claim = claims[str(row["claim"])]
        if row["verdict"] == NOT_RUN:
            continue
        if row["verdict"] == OPEN:
            unsettled.append(claim.quantity)
        else:
            text = _moved(claim, row)
            (moved if text else same).append(text or claim.quantity)
    said = [*moved]
    if same:
        said.append(f"no change beyond the margin: {', '.join(same)}")
    if unsettled:
        few = len(unsettled) <= FEW
        said.append(f"open: {', '.join(unsettled)}" if few else f"{len(unsettled)} parts are open")
    return f"{lead}: {'; '.join(said)}." if said else "Not computed yet."


def _moved(claim: Claim, row: Series) -> str:
    """The settled effect in words; nothing where its interval lies within the margins."""
    margin = margin_of(claim.metric)
    interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
    if row["low"] > margin or row["high"] < -margin:
        verb, sign = (claim.verbs[0], 1) if row["value"] > 0 else (claim.verbs[1], -1)
        low, high = sorted((sign * row["low"], sign * row["high"]))
        return f"{claim.quantity} {verb} {abs(row['value']):.3f} [{low:.3f}, {high:.3f}]"
    if row["low"] >= -margin and row["high"] <= margin:
        return ""
    direction = "rise" if row["high"] <= margin else "fall"
    return f"{claim.quantity} does not {direction} ({row['value']:+.3f} {interval})"


def settles(row: Series) -> str:
    """What would settle an open part; nothing for others."""
    if row["verdict"] != OPEN or row["n"] == 0:
        return ""
    if row["n"] < 2:
        return "one value has no interval"
    if row["needed"] is None or not np.isfinite(row["needed"]):
        return "too little there to fall, or two values that agree"
    more = f"over {MOST:,}" if row["needed"] > MOST else f"{int(row['needed']):,}"
    bound = bound_of(row["claimed"], row["margin"])
    alone = "" if row["low"] <= bound <= row["high"] else "settled by itself, not beside the other parts (Holm); "
    return f"{alone}{more} {row['unit']} would settle it"
