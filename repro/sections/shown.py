"""The verdicts of a section's claims as its notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.sections.effects import order_of
from repro.sections.ledger import settles
from repro.sections.scales import SCALES
from repro.sections.verdict import NOT_RUN, RULE, WHOLE, Claim

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def shown(claims: Iterable[Claim], scale: str) -> Styler:
    """The verdicts of claims at this scale and every other that has been run, for a notebook: long texts wrap."""
    import pandas as pd

    from repro.sections.claims import ledger as everything

    ids = [claim.id for claim in claims]
    table = pd.concat([everything(s) for s in (scale, *(s for s in SCALES if s != scale))], ignore_index=True)
    table = table[table["claim"].isin(ids) & ((table["verdict"] != NOT_RUN) | (table["scale"] == scale))]
    table = table.assign(needed=[settles(row) for _, row in table.iterrows()])
    columns = ["claim", "statement", "scale", "verdict", "corrected", "margin", "needed", "why", "as_released", "paper"]
    wrapped = {"white-space": "normal", "min-width": "12rem", "text-align": "left"}
    table = table.sort_values("claim", kind="stable", key=lambda names: names.map(order_of))
    styled = table[columns].reset_index(drop=True).style.hide(axis="index")
    # else it is drawn at random, and pages differ from run to run
    styled = styled.set_uuid(f"verdicts-{'-'.join(ids)}")
    styled = styled.set_properties(subset=["statement", "corrected", "needed", "why", "as_released"], **wrapped)
    styled = styled.set_properties(subset=["verdict"], **wrapped | {"min-width": "6rem"})
    return styled.set_caption(f"{RULE} {WHOLE}")
