"""The ledger: claims judged at a scale, each with its effect under both protocols, its rule and its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.base.errors import BadInput, nearest
from repro.sections.effects import NOT_RUN, Claim, Finding, Tables, order_of
from repro.sections.scales import SCALES
from repro.sections.tables import load_table
from repro.sections.types import DataFrame

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def ledger(claims: Iterable[Claim], scale: str, tables: Tables | None = None) -> DataFrame:
    """A row a claim with its verdict at one scale; tables are read where none are given. BadInput: unknown scale."""
    import pandas as pd

    if scale not in SCALES:
        raise BadInput(f"No scale '{scale}'{nearest(scale, SCALES)}; there are {', '.join(SCALES)}.")
    rows = []
    for claim in claims:
        names = (*claim.needs, *claim.uses)
        by_name = {n: tables.get(n) if tables is not None else load_table(n, scale) for n in names}
        present = {n: t for n, t in by_name.items() if t is not None}
        finding = claim.test(present) if set(claim.needs) <= set(present) else Finding("–", "–", NOT_RUN)
        rows.append(
            {
                "claim": claim.id,
                "statement": claim.statement,
                "paper": claim.paper,
                "scale": scale,
                "as_released": str(finding.released),
                "corrected": str(finding.corrected),
                "verdict": finding.verdict,
                "why": finding.why,
                "rule": claim.rule,
                "section": claim.section,
            }
        )
    return pd.DataFrame(rows)


def shown(claims: Iterable[Claim], scale: str) -> Styler:
    """The verdicts of claims at this scale and every other that has been run, for a notebook: long texts wrap."""
    import pandas as pd

    claims = list(claims)
    table = pd.concat([ledger(claims, s) for s in (scale, *(s for s in SCALES if s != scale))], ignore_index=True)
    table = table[(table["verdict"] != NOT_RUN) | (table["scale"] == scale)]
    columns = ["claim", "statement", "scale", "verdict", "corrected", "why", "as_released", "paper"]
    wrapped = {"white-space": "normal", "min-width": "12rem", "text-align": "left"}
    table = table.sort_values("claim", kind="stable", key=lambda ids: ids.map(order_of))
    styled = table[columns].reset_index(drop=True).style.hide(axis="index")
    # else it is drawn at random, and pages differ from run to run
    styled = styled.set_uuid(f"verdicts-{'-'.join(c.id for c in claims)}")
    styled = styled.set_properties(subset=["statement", "corrected", "why", "as_released"], **wrapped)
    return styled.set_properties(subset=["verdict"], **wrapped | {"min-width": "6rem"})
