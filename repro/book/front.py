"""The ledger on the first page of the book: a sentence a claim, its parts, and a verdict in words for every model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MODELS = {"paper": "Pythia-160M and Gemma-2-2B", "small": "SmolLM2-135M", "tiny": "the bundled model"}
"""Scales by what they are run on, the most telling first."""

KINDS = {"holds": "holds", "does not hold": "fails", "not yet run": "waiting"}
"""Verdict -> class of its chip (book.css); qualified ones are "explained", what is open or untestable "untested"."""


def kind(verdict: str) -> str:
    """The class of a verdict's chip."""
    if verdict in KINDS:
        return KINDS[verdict]
    return "explained" if verdict.startswith("holds") else "untested"


def chip(verdict: str) -> str:
    """The verdict in words; colour and sign of the chip only repeat them."""
    return f'<span class="verdict {kind(verdict)}">{verdict}</span>'


def markdown(pages: Iterable[str], ledgers: dict[str, pd.DataFrame] | None = None) -> tuple[str, str]:
    """The claims, a row each, and every part of them with its effect: two tables, with the scales that have been run.

    pages: pages of the book (`contents.pages`), so that no link leads to a section that is not built. ledgers: scale ->
    `repro.sections.claims.ledger`, computed where not given.
    """
    from repro.sections import claims
    from repro.sections.effects import NOT_RUN, group_of

    ledgers = ledgers or {scale: claims.ledger(scale) for scale in MODELS}
    tables = {scale: ledgers[scale].set_index("claim") for scale in MODELS if scale in ledgers}
    run = [scale for scale, table in tables.items() if (table["verdict"] != NOT_RUN).any()]
    if not run:
        return "*Not computed yet: no table of this checkout has been judged. `make report` does it.*\n", ""
    built = set(pages)
    head = ["", f"| claim | {' | '.join(MODELS[scale] for scale in run)} |", "|---|" + "---|" * len(run)]
    whole, parts = list(head), list(head)
    for group, rows in tables[run[0]].groupby(lambda claim: group_of(str(claim)), sort=False):
        sections = [f"executed/{name}" for name in rows["section"].unique()]
        links = ", ".join(f"[]({page}.ipynb)" for page in sections if page in built)
        sentence = f"**{group}** {claims.SENTENCES.get(str(group), rows['statement'].iloc[0])}"
        cells = [named(MODELS[scale], counts(tables[scale].loc[rows.index])) for scale in run]
        whole.append(f"| {sentence}{f'<br><small>{links}</small>' if links else ''} | {' | '.join(cells)} |")
        for claim, row in rows.iterrows():
            cells = [named(MODELS[scale], effect(tables[scale].loc[claim])) for scale in run]
            parts.append(f"| {part(str(claim), row)} | {' | '.join(cells)} |")
    waiting = [MODELS[scale] for scale in MODELS if scale not in run]
    note = f"Not yet run: {', '.join(waiting)}; `repro report --scale paper` on a GPU computes their column."
    return framed(whole) + (f"\n{note}\n" if waiting else ""), framed(parts)


def framed(lines: list[str]) -> str:
    """A table of class ledger, which narrow screens show row by row."""
    return "\n".join([":::{table}", ":class: ledger", *lines, ":::", ""])


def counts(table: pd.DataFrame) -> str:
    """How often each verdict was given, the clear ones first."""
    order = ["holds", "explained", "fails", "untested", "waiting"]
    verdicts = sorted(Counter(table["verdict"]).items(), key=lambda item: (order.index(kind(item[0])), -item[1]))
    return " ".join(f'<span class="verdict {kind(v)}">{v}{f" × {n}" if n > 1 else ""}</span>' for v, n in verdicts)


def part(claim: str, row: pd.Series) -> str:
    """The statement that is tested, and the paper's number for it."""
    paper = f"<br><small>paper: {row['paper']}</small>" if row["paper"] not in ("", "–") else ""
    return f"**{claim}** {row['statement']}{paper}"


def effect(row: pd.Series) -> str:
    """The verdict with the corrected effect, or the reason, below it."""
    below = str(row["corrected"]) if len(str(row["corrected"])) < 48 else str(row["why"])
    small = f"<br><small>{below}</small>" if below not in ("", "–") else ""
    return chip(str(row["verdict"])) + small


def named(model: str, cell: str) -> str:
    """The cell, with the model said again for narrow screens, which have no head of the table."""
    return f'<span class="model">{model}: </span>{cell}'
