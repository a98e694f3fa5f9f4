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
    from IPython.display import Markdown, display
    from pandas.io.formats.style import Styler

    from repro.sections.claims import ledger as everything

    ids = [claim.id for claim in claims]
    order = sorted(SCALES, key=lambda s: s == "tiny")  # real language models first
    table = pd.concat([everything(s) for s in order], ignore_index=True)
    table = table[table["claim"].isin(ids) & ((table["verdict"] != NOT_RUN) | (table["scale"] == scale))]
    table = table.assign(needed=[settles(row) for _, row in table.iterrows()])
    columns = ["claim", "statement", "scale", "verdict", "corrected", "margin", "needed", "why", "as_released", "paper"]
    table = table.sort_values("claim", kind="stable", key=lambda names: names.map(order_of))
    # named, else a name is drawn at random and pages differ from run to run; no cell has an id, which would be long
    styled = (
        Styler(table[columns].reset_index(drop=True), uuid=ids[0], uuid_len=0, cell_ids=False)
        .hide(axis="index")
        .format(precision=3)
    )
    wide = ",".join(f"td.col{columns.index(c)}" for c in ("statement", "corrected", "needed", "why", "as_released"))
    wrap = "white-space: normal; text-align: left; min-width: 8rem"
    display(Markdown(f"{RULE} {WHOLE}"))  # a caption would be as wide as the table, which a screen may not be
    return styled.set_table_styles([{"selector": wide, "props": wrap}])
