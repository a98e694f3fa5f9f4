"""The first page's figure: what refined codes change against the encoder's, each effect in multiples of its margin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repro.base.theme import BLUE, GREY, VERMILION, caption
from repro.sections.effects import FAMILY_NAMES, Effect
from repro.sections.figures import blank
from repro.sections.ledger import finding_of
from repro.sections.margins import margin_of
from repro.sections.types import Figure
from repro.sections.verdict import Claim

ALL = "all variants"
COLORS = {FAMILY_NAMES["L1"]: VERMILION, FAMILY_NAMES["k"]: BLUE, ALL: GREY}


class Row(NamedTuple):
    """A line of the figure: its name and the parts of claims that it shows, by the variants that they are about."""

    name: str
    parts: dict[str, str]


ROWS = (
    Row("error:<br>L1 optimum", {"L1-trained": "C5c", "k-trained": "C5d"}),
    Row("error:<br>pursuit", {"L1-trained": "C5e", "k-trained": "C5f"}),
    Row("loss:<br>pursuit", {ALL: "P1d"}),
    Row("dead latents *:<br>L1 optimum", {ALL: "C8a"}),
    Row("dense latents *:<br>L1 optimum", {ALL: "C8b"}),
    Row("absorption †:<br>L1 optimum", {ALL: "C8c"}),
    Row("ΔF1:<br>L1 optimum", {ALL: "C8d"}),
)


class Point(NamedTuple):
    """An effect on its line."""

    y: float
    effect: Effect
    margin: float


TICKS = (-100, -10, -1, 0, 1, 10)
APART = 0.2  # of two families on a line


def forest_figure(claims: dict[str, Claim], scale: str, model: str) -> Figure:
    """Effects of refined codes with 95 % intervals, a line a quantity, from the committed tables of a scale.

    claims: part of a claim by id (`claims.CLAIMS`). Left of the band is less of what is bad.
    """
    figure = blank()
    drawn: dict[tuple[str, bool], list[Point]] = {}
    for line, row in enumerate(ROWS):
        for i, (who, part) in enumerate(row.parts.items()):
            claim = claims[part]
            finding = finding_of(claim, scale)
            if finding is None:
                continue
            y = -line if len(row.parts) == 1 else -line + (APART, -APART)[i]
            for released, effect in enumerate((finding.corrected, finding.released)):
                if isinstance(effect, Effect) and np.isfinite(effect.value):
                    point = Point(y, effect, margin_of(claim.metric))
                    drawn.setdefault((who, bool(released)), []).append(point)
    for (who, released), points in sorted(drawn.items(), key=lambda item: item[0][1]):
        _draw(figure, who, released, points)
    hollow = {"color": GREY, "size": 9, "symbol": "circle-open"}  # one entry of the legend for all colours
    figure.add_scatter(x=[None], y=[None], mode="markers", name="as released", marker=hollow)
    figure.add_vrect(x0=_place(-1), x1=_place(1), fillcolor=GREY, opacity=0.18, line_width=0, layer="below")
    figure.update_xaxes(
        tickvals=[_place(t) for t in TICKS],
        ticktext=[f"{t:+d}".replace("-", "−") if t else "0" for t in TICKS],
        title_text="← less  ·  in margins  ·  more →",
        tickangle=0,
    )
    figure.update_yaxes(
        tickvals=[-i for i in range(len(ROWS))], ticktext=[row.name for row in ROWS], range=[-len(ROWS) + 0.4, 0.6]
    )
    figure.update_layout(height=150 + 62 * len(ROWS), margin_l=110)
    return caption(
        figure,
        _words(model),
        "Dot plot with intervals, a line a quantity; what "
        "lies outside the grey band changes, and every value stands on the page of all parts of all claims.",
    )


def _place(multiple: float | np.ndarray) -> np.ndarray:
    """Where a multiple of the margin lies: linear within the margins, logarithmic beyond."""
    m = np.asarray(multiple, float)
    return np.where(np.abs(m) <= 1, m, np.sign(m) * (1 + np.log10(np.maximum(np.abs(m), 1)))).round(4)


def _draw(figure: Figure, who: str, released: bool, points: list[Point]) -> None:
    """One trace: markers, and where corrected their intervals and numbers."""
    low, x, high = (
        _place(np.array([getattr(p.effect, end) / p.margin for p in points])) for end in ("low", "value", "high")
    )
    name = "as released" if released else who
    figure.add_scatter(
        x=x,
        y=[p.y for p in points],
        mode="markers" if released else "markers+text",
        name=name,
        showlegend=not released,
        marker={"color": COLORS[who], "size": 9, "symbol": "circle-open" if released else "circle"},
        text=[f"{p.effect.value:+.3f}, n = {p.effect.n}".replace("-", "−") for p in points],
        textposition=["bottom center" if p.y % 1 > 0.5 else "top center" for p in points],
        textfont_size=11,
        hovertext=[f"{who}{', as released' if released else ''}: {p.effect}" for p in points],
        hoverinfo="text",
    )
    if not released:
        error = {"array": high - x, "arrayminus": x - low, "symmetric": False, "thickness": 1.5, "width": 3}
        figure.data[-1].error_x = error


def _words(model: str) -> str:
    return (
        f"{model}: what refined codes change against the encoder's at equal L0, with 95 % intervals. The axis is "
        "logarithmic beyond the grey band, in which a change counts as none: within the margin of its metric. Numbers: "
        "the change itself, and n, SAEs or variants. Hollow: as the released code computes it, at no equal L0. * minus "
        "the same for a random dictionary's optimum; † minus what latents of the same firing rates give by chance. "
        "Loss: in nats a token. A verdict below also corrects for the number of parts of its claim."
    )
