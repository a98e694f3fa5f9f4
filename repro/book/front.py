"""The ledger in the book: a word and a sentence a claim (first page), and every part with its effect (claims.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MODELS = {"paper": "Pythia-160M and Gemma-2-2B", "small": "SmolLM2-135M", "tiny": "the bundled model"}
"""Scales by what they are run on, the most telling first."""

DRAWN = "; E4: drawn sources"
"""What the columns of the field's claims add: one is tested where the truth is known."""
FIELD = "What others say about inference and dictionary ([related work](related.md)), tested here:"

KINDS = {"supported": "holds", "refuted": "fails", "open": "untested", "not yet run": "waiting"}
"""Verdict -> class of its chip (book.css)."""


def chip(verdict: str) -> str:
    """The verdict in words; colour and sign of the chip only repeat them."""
    return f'<span class="verdict {KINDS[verdict]}">{verdict}</span>'


def markdown(pages: Iterable[str], ledgers: dict[str, pd.DataFrame] | None = None) -> tuple[str, str]:
    """The claims, a row each, and every part of them with its effect: two tables, with the scales that have been run.

    pages: pages of the book (`contents.pages`), so that no link leads to a section that is not built. ledgers: scale ->
    `repro.sections.claims.ledger`, computed where not given.
    """
    from repro.sections import claims
    from repro.sections.effects import group_of
    from repro.sections.verdict import NOT_RUN, RULE, WHOLE

    ledgers = ledgers or {scale: claims.ledger(scale) for scale in MODELS}
    tables = {scale: ledgers[scale].set_index("claim") for scale in MODELS if scale in ledgers}
    run = [scale for scale, table in tables.items() if (table["verdict"] != NOT_RUN).any()]
    if not run:
        return "*Not computed yet: no table of this checkout has been judged. `make report` does it.*\n", ""
    summaries = {scale: claims.summary(ledgers[scale]).set_index("claim") for scale in run}
    built = set(pages)
    whole, field, parts = ([*_head([f"{MODELS[scale]}{note}" for scale in run])] for note in ("", DRAWN, ""))
    for group, rows in tables[run[0]].groupby(lambda claim: group_of(str(claim)), sort=False):
        sections = [f"executed/{name}" for name in rows["section"].unique()]
        links = ", ".join(f"[]({page}.ipynb)" for page in sections if page in built)
        sentence = f"**{group}** {claims.SENTENCES.get(str(group), rows['statement'].iloc[0])}"
        cells = [named(MODELS[scale], said(summaries[scale].loc[group])) for scale in run]
        lines = field if str(group).startswith("E") else whole
        lines.append(f"| {sentence}{f'<br><small>{links}</small>' if links else ''} | {' | '.join(cells)} |")
        for claim, row in rows.iterrows():
            cells = [named(MODELS[scale], effect(tables[scale].loc[claim])) for scale in run]
            parts.append(f"| {part(str(claim), row)} | {' | '.join(cells)} |")
    waiting = [MODELS[scale] for scale in MODELS if scale not in run]
    note = f"Not yet run: {', '.join(waiting)}; `repro report --scale paper` on a GPU computes their column."
    rule = f"\n{RULE} {WHOLE}\n"
    others = f"\n{FIELD}\n\n{framed(field)}" if len(field) > len(_head([])) else ""
    return framed(whole) + others + (f"\n{note}\n" if waiting else ""), framed(parts) + rule


def standing(ledgers: dict[str, pd.DataFrame]) -> str:
    """Markdown: the word on each of the paper's claims on the most telling language model, in a sentence.

    ledgers: scale -> `repro.sections.claims.ledger`.
    """
    from repro.sections.claims import summary
    from repro.sections.effects import order_of
    from repro.sections.verdict import NOT_RUN

    for scale in MODELS:
        if scale not in ledgers or (ledgers[scale]["verdict"] == NOT_RUN).all():
            continue
        words = summary(ledgers[scale]).set_index("claim")["verdict"]
        words = words[words.index.str.startswith("C")]
        order = sorted(words.index, key=order_of)
        lists = {word: ", ".join(c for c in order if words[c] == word) for word in KINDS}
        said = "; ".join(f"{chip(word)} {names}" for word, names in lists.items() if names)
        return f"[The paper's {len(words)} claims](#the-verdicts) on {MODELS[scale]}: {said}.\n"
    return ""


def _head(columns: list[str]) -> list[str]:
    """The first lines of a table of claims."""
    return ["", f"| claim | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]


def framed(lines: list[str]) -> str:
    """A table of class ledger, which narrow screens show row by row."""
    return "\n".join([":::{table}", ":class: ledger", *lines, ":::", ""])


def said(row: pd.Series) -> str:
    """The word and the sentence of a claim, with the SAEs and tokens that it rests on at most."""
    on = f"<br><small>{row['saes']} SAEs, {row['tokens']:,} tokens</small>" if row["saes"] else ""
    return f"{chip(str(row['verdict']))}<br>{row['sentence']}{on}"


def part(claim: str, row: pd.Series) -> str:
    """The statement that is tested, with its margin and its unit, and the paper's number for it."""
    from repro.sections.margins import UNITS

    paper = f"; paper: {row['paper']}" if row["paper"] not in ("", "–") else ""
    unit = f", {UNITS[row['metric']]}" if row["metric"] in UNITS else ""
    return f"**{claim}** {row['statement']}<br><small>margin ±{row['margin']:g}{unit}{paper}</small>"


def effect(row: pd.Series) -> str:
    """The verdict of a part with its effect, what else has to be known, and what would settle it."""
    from repro.sections.ledger import settles

    lines = [str(row["corrected"]), settles(row), str(row["why"])]
    small = "<br>".join(f"<small>{line}</small>" for line in lines if line not in ("", "–"))
    drawn = strip(row)  # a block of its own
    return chip(str(row["verdict"])) + (drawn or "<br>" * bool(small)) + small


WIDTH, MIDDLE = 180, 9  # pixels of a strip, and where its line is
MARKS = {"supported": "circle", "open": "ring", "refuted": "cross"}


def strip(row: pd.Series) -> str:
    """The effect with its interval on an axis in its unit, the margins in grey; the mark is the verdict's.

    Nothing where there is no interval.
    """
    low, value, high, margin = (float(row[name]) for name in ("low", "value", "high", "margin"))
    if not low <= value <= high:
        return ""
    reach = 1.1 * max(margin, -low, high)
    a, x, b, left, right = (round(WIDTH * (0.5 + v / reach / 2), 1) for v in (low, value, high, -margin, margin))
    mark = {
        "circle": f'<circle cx="{x}" cy="{MIDDLE}" r="4"/>',
        "ring": f'<circle class="ring" cx="{x}" cy="{MIDDLE}" r="4"/>',
        "cross": f'<path class="cross" d="M{x - 4:.1f} {MIDDLE - 4}l8 8m0-8l-8 8"/>',
    }[MARKS[str(row["verdict"])]]
    return (
        f'<svg class="strip" viewBox="0 0 {WIDTH} {2 * MIDDLE}" aria-hidden="true">'
        f'<rect x="{left}" y="0" width="{right - left:.1f}" height="{2 * MIDDLE}"/>'
        f'<path d="M{WIDTH / 2} 0v{2 * MIDDLE}M{a} {MIDDLE}H{b}"/>{mark}</svg>'
    )


def named(model: str, cell: str) -> str:
    """The cell, with the model said again for narrow screens, which have no head of the table."""
    return f'<span class="model">{model}: </span>{cell}'
