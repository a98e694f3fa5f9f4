"""The first page's figure: what refined codes change against the encoder's, a panel a unit, with margin and verdict."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from repro.base.theme import GREY, MODE_COLORS, caption, interval
from repro.sections.effects import FAMILY_NAMES, group_of
from repro.sections.types import DataFrame, Figure, Series
from repro.sections.verdict import NOT_RUN, OPEN, REFUTED, SUPPORTED

L1, K = FAMILY_NAMES["L1"], FAMILY_NAMES["k"]


class Panel(NamedTuple):
    """Parts of claims about one quantity in one unit: id -> (inference mode, the rest of its name)."""

    unit: str
    parts: dict[str, tuple[str, str]]


PANELS = (
    Panel(
        "error (NMSE)",
        {
            "C5a": ("semi", f"30 steps,<br>{L1}"),
            "C5b": ("semi", f"30 steps,<br>{K}"),
            "C5c": ("non", f"L1 optimum,<br>{L1}"),
            "C5d": ("non", f"L1 optimum,<br>{K}"),
            "C5e": ("pursuit", f"pursuit,<br>{L1}"),
            "C5f": ("pursuit", f"pursuit,<br>{K}"),
        },
    ),
    Panel("loss (nats a token)", {"P1d": ("pursuit", "pursuit")}),
    Panel("dead latents (share) *", {"C8a": ("non", "L1 optimum")}),
    Panel("dense latents (share) *", {"C8b": ("non", "L1 optimum")}),
    Panel("absorption (share of positives) †", {"C8c": ("non", "L1 optimum")}),
    Panel("ΔF1 (difference of F1)", {"C8d": ("non", "L1 optimum")}),
)
SYMBOLS = {SUPPORTED: "circle", OPEN: "circle-open", REFUTED: "x"}
LINE, BETWEEN = 38, 62
"""Pixels of a row, and between two panels."""


def forest_figure(ledger: DataFrame, model: str) -> Figure:
    """Effects of refined codes with 95 % intervals, each in its own unit beside its margin; the symbol is the verdict.

    ledger: `claims.ledger` of the language model. Left of the band is less of what is bad, as all parts claim.
    """
    from plotly.subplots import make_subplots

    rows = ledger[ledger["verdict"] != NOT_RUN].set_index("claim")
    panels = [panel for panel in PANELS if set(panel.parts) & set(rows.index)]
    heights = [len(panel.parts) for panel in panels]
    inner = LINE * sum(heights) + BETWEEN * (len(panels) - 1)
    figure = make_subplots(len(panels), 1, row_heights=heights, vertical_spacing=BETWEEN / inner)
    for number, panel in enumerate(panels, 1):
        parts = [part for part in panel.parts if part in rows.index]
        for place, part in enumerate(parts):
            _draw(figure, number, -place, panel.parts[part], rows.loc[part], str(part))
        margin, names = rows.loc[parts[0], "margin"], [panel.parts[part][1] for part in parts]
        low, high = min(-margin, rows.loc[parts, "low"].min()), max(margin, rows.loc[parts, "high"].max())
        room = 0.2 * (high - low)  # for the numbers
        figure.update_xaxes(range=[low - room, high + room], **_ticks(low, high), row=number, col=1)
        figure.add_vrect(-margin, margin, fillcolor=GREY, opacity=0.2, line_width=0, layer="below", row=number, col=1)
        figure.add_vline(0, line={"color": GREY, "width": 1}, layer="below", row=number, col=1)
        figure.update_yaxes(
            tickvals=[-i for i in range(len(parts))],
            ticktext=names,
            range=[0.4 - len(parts), 0.75],
            row=number,
            col=1,
        )
        axis = figure.layout[f"yaxis{number if number > 1 else ''}"]
        corner = {"x": 0, "y": axis.domain[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        text = f"<b>{panel.unit}</b>, margin ±{margin:g}"
        figure.add_annotation(text=text, showarrow=False, xshift=-94, **corner)
    for word, symbol in SYMBOLS.items():  # the legend is about verdicts alone
        marker = {"color": GREY, "size": 10, "symbol": symbol}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=word, marker=marker)
    figure.update_xaxes(tickangle=0)
    figure.update_xaxes(title_text="← less, as claimed  ·  more →", row=len(panels), col=1)
    figure.update_layout(height=150 + inner, margin={"l": 94, "t": 84}, legend={"y": 1 + 24 / inner})
    shown = rows.loc[[part for panel in panels for part in panel.parts if part in rows.index]]
    return caption(figure, _words(model, shown), _alt(shown), _title(model, shown))


def _ticks(low: float, high: float) -> dict[str, list[Any]]:
    """tickvals and ticktext with signs at multiples of 1, 2 or 5: five at most, which have room on half a page."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4.5))
    step = min(s * power for s in (1, 2, 5, 10) if s * power >= (high - low) / 4.5)
    values = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {"tickvals": values, "ticktext": [f"{v:+.2g}".replace("-", "−") if v else "0" for v in values]}


def _draw(figure: Figure, number: int, y: float, name: tuple[str, str], row: Series, part: str) -> None:
    """A marker with its interval, its number and what it refutes."""
    mode, words = name
    text = f"{row['value']:+.3f}, n = {row['n']}".replace("-", "−")
    if row["verdict"] == REFUTED:
        text += f" <b>refutes {group_of(part)}</b>"
    hover = f"{part}: {row['statement']}<br>{row['corrected']}<br>{row['verdict']}, margin {row['margin']:g}"
    figure.add_scatter(
        x=[row["value"]],
        y=[y],
        error_x=interval([row["value"]], [row["low"]], [row["high"]]),
        mode="markers+text",
        showlegend=False,
        marker={"color": MODE_COLORS[mode], "size": 10, "symbol": SYMBOLS[row["verdict"]]},
        text=[text],
        textposition="top center",
        textfont_size=11,
        cliponaxis=False,
        hovertext=[f"{words.replace('<br>', ' ')}<br>{hover}"],
        hoverinfo="text",
        row=number,
        col=1,
    )


def _title(model: str, rows: DataFrame) -> str:
    count = rows["verdict"].value_counts()
    words = ", ".join(f"{count.get(word, 0)} {word}" for word in (SUPPORTED, REFUTED, OPEN))
    return f"{model}: of {len(rows)} falls that are claimed, {words}"


def _words(model: str, rows: DataFrame) -> str:
    return (
        f"{model}: what refined codes change against the encoder's at equal L0, with 95 % intervals, in the units of "
        "each panel. Grey: within the margin a change counts as none. A claim is refuted when one of its parts is. "
        f"n: SAEs or variants ({rows['saes'].min()} to {rows['saes'].max()} SAEs a row). * Minus the same for a random "
        "dictionary's optimum. † Minus what latents of the same firing rates give by chance. What lies beyond a margin "
        "may be open all the same: verdicts also correct for the number of parts of a claim."
    )


def _alt(rows: DataFrame) -> str:
    words = "; ".join(f"{part} {row['corrected']}, {row['verdict']}" for part, row in rows.iterrows())
    return f"Dot plot with intervals, a row a part of a claim: {words}."
