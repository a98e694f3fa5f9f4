"""The ledger: every claim at every scale with its effect, interval, rule and verdict; as a table or csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repro.base.errors import BadInput, nearest
from repro.base.files import repo_root, write_atomically
from repro.sections.claims import CLAIMS, Claim
from repro.sections.effects import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    PART,
    UNTESTED,
    Effect,
    Finding,
    Tables,
    difference,
    sparsest_minus_densest,
)

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

SCALES = ("tiny", "small", "paper")


def ledger(scale: str, ids: tuple[str, ...] | None = None, tables: Tables | None = None) -> pd.DataFrame:
    """The claims (or those of `ids`) with their verdicts at one scale; tables are read where none are given."""
    import pandas as pd

    from repro.sections.tables import load_table

    if scale not in SCALES:
        raise BadInput(f"No scale '{scale}'{nearest(scale, SCALES)}; there are {', '.join(SCALES)}.")
    rows = []
    for claim in CLAIMS:
        if ids is not None and claim.id not in ids and claim.id.rstrip("abcdefg") not in ids:
            continue
        names = (*claim.needs, *claim.uses)
        known = {n: tables.get(n) if tables is not None else load_table(n, scale) for n in names}
        present = {n: t for n, t in known.items() if t is not None}
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


def shown(ids: list[str], scale: str) -> Styler:
    """The verdicts of some claims ("C5" = all its parts) at this scale and every other that has been run, to be shown
    in a notebook: no text is cut, long ones are wrapped."""
    import pandas as pd

    scales = [scale, *(s for s in SCALES if s != scale)]
    table = pd.concat([ledger(s, tuple(ids)) for s in scales], ignore_index=True)
    table = table[(table["verdict"] != NOT_RUN) | (table["scale"] == scale)]
    columns = ["claim", "statement", "scale", "verdict", "corrected", "why", "as_released", "paper"]
    wrapped = {"white-space": "normal", "min-width": "12rem", "text-align": "left"}
    styled = table.sort_values("claim", kind="stable")[columns].reset_index(drop=True).style.hide(axis="index")
    styled = styled.set_uuid(
        f"verdicts-{'-'.join(ids)}"
    )  # else it is drawn at random, and pages differ from run to run
    styled = styled.set_properties(subset=["statement", "corrected", "why", "as_released"], **wrapped)
    return styled.set_properties(subset=["verdict"], **wrapped | {"min-width": "6rem"})


def write(scale: str) -> Path:
    """Write data/results/claims/<scale>.csv."""
    table = ledger(scale)
    path = repo_root() / "data" / "results" / "claims" / f"{scale}.csv"
    return write_atomically(path, lambda p: table.to_csv(p, index=False))


__all__ = [
    "CLAIMS",
    "FAILS",
    "HOLDS",
    "NOT_RUN",
    "OPEN",
    "PART",
    "SCALES",
    "UNTESTED",
    "Claim",
    "Effect",
    "Finding",
    "difference",
    "ledger",
    "shown",
    "sparsest_minus_densest",
    "write",
]
