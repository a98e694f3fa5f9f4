"""Tokens, latents and numbers as HTML; whatever comes from a text or a file is escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from repro.base.theme import MODE_COLORS, VERMILION
from repro.inference import MODES
from repro.sections.explorer.figures import legend_names, visible

if TYPE_CHECKING:
    from repro.sections.explorer.session import Explorer, State

CELL = "padding:.1em .7em;text-align:right"
LEVELS = 10
DARKEST = 0.6  # opacity of the largest gap: text stays legible above it in the light and in the dark
_RED, _GREEN, _BLUE = (int(VERMILION[i : i + 2], 16) for i in (1, 3, 5))


def shade(share: float, largest: float) -> str:
    """Background of a token whose gap is `share` of its objective; ten levels up to the `largest` of the text."""
    level = round(LEVELS * min(share / largest, 1.0)) if largest > 0 else 0
    return f"rgba({_RED},{_GREEN},{_BLUE},{DARKEST * level / LEVELS:.2f})"


def shades(state: State, mode: str = "amortized") -> list[str]:
    """Backgrounds of all tokens by the gap of a mode; those that do not count stay clear."""
    share = state.share(mode)
    counted = state.reading.counted
    largest = float(share[counted].max())
    return [shade(float(s), largest) if c else "rgba(0,0,0,0)" for s, c in zip(share, counted)]


def token_words(state: State, token: int) -> str:
    """One token's gap and nonzeros in a sentence."""
    if not state.reading.counted[token]:
        return "Left out of every average, as in the evaluation: the first position or a special token."
    l0 = ", ".join(f"{name} {int(state.codes[m].l0[token])}" for m, name in legend_names(state).items())
    return f"gap {float(state.share()[token]):.1%} of the objective; nonzeros by {l0}"


def token_strip(state: State, chosen: int | None = None) -> str:
    """The text, every token on a background as deep as the gap of its encoder's code."""
    parts = []
    for i, (token, colour) in enumerate(zip(state.reading.tokens, shades(state))):
        edge = "outline:2px solid currentColor;outline-offset:1px;" if i == chosen else ""
        dim = "" if state.reading.counted[i] else "opacity:.55;"
        space = "&#8203; " if token[:1].isspace() else ""
        title = html.escape(token_words(state, i))
        parts.append(
            f'{space}<span title="{title}" style="background:{colour};border-radius:3px;padding:2px 1px;{edge}{dim}">'
            f"{html.escape(visible(token))}</span>"
        )
    return f'<p style="line-height:2.1">{"".join(parts)}</p>{scale_bar(state)}'


def scale_bar(state: State) -> str:
    """The scale of the backgrounds."""
    largest = float(state.share()[state.reading.counted].max())
    ramp = ",".join(shade(i, LEVELS) for i in range(LEVELS + 1))
    return (
        '<p style="font-size:85%;margin:.2em 0">gap of the encoder\'s code, share of its objective: 0 % '
        f'<span style="display:inline-block;width:9em;height:.8em;border-radius:3px;vertical-align:middle;'
        f'background:linear-gradient(90deg,{ramp})"></span> {largest:.1%}</p>'
    )


def summary_table(state: State) -> str:
    """Means over the text's tokens, a row a mode."""
    names = legend_names(state)
    titles = "", "L0", "NMSE", "objective J", "gap J − J*, at most", "share of J"
    head = "".join(f'<th style="{CELL}">{title}</th>' for title in titles)
    rows = []
    for mode, row in state.summary().iterrows():
        mark = f'<span style="color:{MODE_COLORS[str(mode)]}">&#9632;</span> {html.escape(names[str(mode)])}'
        cells = f"{row['L0']:.2f}", f"{row['NMSE']:.4f}", f"{row['objective']:.2f}", f"{row['gap at most']:.3g}"
        numbers = "".join(f'<td style="{CELL}">{cell}</td>' for cell in (*cells, f"{row['share']:.2%}"))
        rows.append(f'<tr><td style="text-align:left">{mark}</td>{numbers}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def latent_card(explorer: Explorer, latent: int, contexts: int = 5) -> str:
    """A latent as a card: rate, top contexts with the token in bold, nearest atoms."""
    library = explorer.library
    examples = library.contexts(latent, contexts)
    words = html.escape(library.words(latent)) or "no name"
    rows = "".join(
        f'<tr><td>{c.value:.3g}</td><td style="text-align:left">…{html.escape(visible_text(c.before))}'
        f"<b>{html.escape(visible_text(c.token))}</b>{html.escape(visible_text(c.after))}…</td></tr>"
        for c in examples
    )
    near = "; ".join(
        f"{j} ({cosine:+.2f}{', ' + html.escape(library.words(j)) if library.words(j) else ''})"
        for j, cosine in library.neighbours(latent)
    )
    where = f"of {library.rows.n:,} tokens"
    body = f"<table><tbody>{rows}</tbody></table>" if rows else f"<p>It fires on none {where}.</p>"
    return (
        f"<p><b>Latent {latent}</b>: {words}. Fires on {library.rate(latent):.2%} {where}.</p>{body}"
        f'<p style="font-size:90%">Nearest atoms (cosine): {near or "none"}.</p>'
    )


def visible_text(text: str) -> str:
    """Text on one line."""
    return text.replace("\r", "").replace("\n", " ⏎ ")


def latent_cards(explorer: Explorer, state: State, token: int, count: int = 4) -> str:
    """Cards of the latents with the largest codes of a token, by any mode."""
    largest = state.table(token)[list(MODES)].max(axis=1).nlargest(count)
    return "".join(latent_card(explorer, int(j), 4) for j in largest.index)
