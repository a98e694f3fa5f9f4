"""The claims of a section as its notebook shows them: a word and a sentence each at the top, every part at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from repro.sections.effects import group_of, order_of
from repro.sections.ledger import ledger, settles
from repro.sections.scales import SCALES
from repro.sections.tables import named, stamp
from repro.sections.verdict import NOT_RUN, RULE, WHOLE, Claim

if TYPE_CHECKING:
    from pandas import DataFrame


HEADS = {"corrected": "effect, corrected protocol", "as_released": "effect, as released", "why": "beside it"}
"""Column of the ledger -> its head in a notebook."""


def judged(claims: Iterable[Claim]) -> dict[str, DataFrame]:
    """Scale -> the ledger of all claims that these are parts of, of the scales that have a table; real models first."""
    return _judged(frozenset(group_of(claim.id) for claim in claims), stamp())


@cache
def _judged(groups: frozenset[str], _: tuple[tuple[str, int], ...]) -> dict[str, DataFrame]:
    """The same for claims without their parts, once for the head and the end of a page while no table changes."""
    from repro.sections.claims import CLAIMS

    parts = [claim for claim in CLAIMS if group_of(claim.id) in groups]
    tables = {scale: ledger(parts, scale) for scale in sorted(SCALES, key=lambda scale: scale == "tiny")}
    return {scale: table for scale, table in tables.items() if (table["verdict"] != NOT_RUN).any()} or tables


def answered(claims: Iterable[Claim], drawn: bool = False) -> Any:
    """What is said and what is found, a word and a sentence a claim and language model, for a notebook.

    drawn: the claims are about drawn data, which have no language model, so the scale is named instead.
    """
    from IPython.display import Markdown

    from repro.sections.claims import SENTENCES, summary

    summaries = {scale: summary(table).set_index("claim") for scale, table in judged(claims).items()}
    lines = []
    for group in dict.fromkeys(group_of(claim.id) for claim in claims):
        lines.append(f"**{group}. {SENTENCES[group]}**\n")
        for scale, table in summaries.items():
            row = table.loc[group]
            if row["verdict"] != NOT_RUN:
                on = "" if drawn else f" ({row['saes']} SAEs, {row['tokens']:,} tokens)"
                name = f"scale {scale}" if drawn else named(asdict(SCALES[scale]), scale)
                lines.append(f"- {name}: *{row['verdict']}*. {row['sentence']}{on}")
        lines.append("")
    return Markdown("\n".join(lines))


def shown(claims: Iterable[Claim]) -> Any:
    """The verdicts of claims at every scale that has been run, for a notebook: long texts wrap."""
    import pandas as pd
    from IPython.display import HTML, Markdown, display
    from pandas.io.formats.style import Styler

    ids = [claim.id for claim in claims]
    table = pd.concat(judged(claims).values(), ignore_index=True)
    table = table[table["claim"].isin(ids) & (table["verdict"] != NOT_RUN)]
    table = table.assign(needed=[settles(row) for _, row in table.iterrows()])
    columns = ["claim", "statement", "scale", "verdict", "corrected", "margin", "needed", "why", "as_released", "paper"]
    table = table.sort_values("claim", kind="stable", key=lambda names: names.map(order_of))
    table.loc[table["claim"].duplicated(), "statement"] = ""  # said in the row above
    columns = [name for name in columns if not table[name].isin(["–", ""]).all()]
    # named, else a name is drawn at random and pages differ from run to run; no cell has an id, which would be long
    styled = (
        Styler(table[columns].rename(columns=HEADS).reset_index(drop=True), uuid=ids[0], uuid_len=0, cell_ids=False)
        .hide(axis="index")
        .format(precision=3)
    )
    wide = ",".join(
        f"td:nth-child({columns.index(c) + 1})"
        for c in ("statement", "corrected", "needed", "why", "as_released")
        if c in columns
    )
    wrap = "white-space: normal; text-align: left; min-width: 8rem"
    display(Markdown(f"{RULE} {WHOLE}"))  # a caption would be as wide as the table, which a screen may not be
    text = styled.set_table_styles([{"selector": wide, "props": wrap}]).to_html()
    return HTML(re.sub(r'(<t[dh][^>]*?) class="[^"]*"', r"\1", text))  # a class a cell would be half of the table
