"""Parts of figures that several sections draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import wrap
from typing import Any

from repro.base.theme import CONTROL, interval, mode_style
from repro.metrics.names import LABELS, MODE_NAMES, MODES, PROTOCOL_NAMES
from repro.sections.types import DataFrame, Figure, Series

TITLED = 64
"""Pixels below panels that share the title of their x axes."""
LOGARITHMIC = ("NMSE", "L0", "amort_gap_mean")


def blank() -> Figure:
    """A figure without traces."""
    import plotly.graph_objects as go

    return go.Figure()


def label(metric: str) -> str:
    """The metric with its unit or direction, for an axis."""
    return LABELS.get(metric, metric)


def name_of(metric: str) -> str:
    """The metric's name without its unit, direction or definition, for a title."""
    return label(metric).partition(" (")[0].partition(" =")[0]


def wrapped(text: str, width: int = 36) -> str:
    """The text in lines of at most `width` characters; as many fit along a y axis of the usual height."""
    return "<br>".join(wrap(text, width))


def metric_axis(figure: Figure, metric: str, values: Series | None = None, **where: int) -> None:
    """Title of the y axis, and its logarithm where the metric spans orders of magnitude and no value forbids it.

    where: row and col of the panels whose axis has the title, in shorter lines because they are low.
    """
    figure.update_yaxes(title_text=wrapped(label(metric), 24 if where else 36), **where)
    if metric in LOGARITHMIC and (values is None or (values > 0).all()):
        figure.update_yaxes(type="log", **({"row": where["row"]} if "row" in where else {}))


def bars(rows: DataFrame, metric: str) -> dict[str, Any]:
    """error_y of a metric from its 95 % interval; nothing where the table has none."""
    low, high = f"{metric}_low", f"{metric}_high"
    if low not in rows or rows[low].isna().all():
        return {}
    return {"error_y": interval(rows[metric], rows[low], rows[high])}


def names_of(rows: DataFrame) -> list[str]:
    """The SAE of each row, for a tooltip."""
    return [f"{v} {s:g}" for v, s in zip(rows["variant"], rows["sparsity"])]


def mode_scatter(
    table: DataFrame,
    x: str,
    y: str,
    intervals: bool = False,
    hover: Callable[[DataFrame], list[str]] = names_of,
) -> Figure:
    """A marker a row, coloured by mode, hollow as released; `intervals` of y where corrected. Controls are left out."""
    figure = blank()
    modes = table[table["mode"].isin(MODES)]
    for (protocol, mode), part in modes.groupby(["protocol", "mode"], sort=False):
        figure.add_scatter(
            x=part[x],
            y=part[y],
            mode="markers",
            name=f"{_name(mode, protocol)}, {PROTOCOL_NAMES[protocol]}",
            marker=mode_style(mode, protocol)["marker"] | {"size": 10},
            hovertext=hover(part),
            **(bars(part, y) if intervals and protocol == "corrected" else {}),
        )
    return figure


def _name(mode: str, protocol: str) -> str:
    """The word for a mode; what the released protocol calls the optimum is 200 steps from zero."""
    return "200 steps" if (mode, protocol) == ("non", "as_released") else MODE_NAMES[mode]


def diagonal(figure: Figure, top: float, name: str, **where: int) -> None:
    """A dashed grey line on which both axes are equal, from 0 to `top`; where: row and col."""
    line = {"color": CONTROL, "dash": "dash", "width": 1}
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", name=name, line=line, **where)


def end_places(ends: Mapping[str, float]) -> dict[str, str]:
    """textposition of the names of up to three lines at their right ends: the highest above, the lowest below."""
    order = sorted(ends, key=lambda name: ends[name])
    places = {1: ["middle"], 2: ["bottom", "top"]}.get(len(order), ["bottom", "middle", "top"])
    return {name: f"{place} right" for name, place in zip(order, places)}


def legend_once(figure: Figure) -> None:
    """Name every trace's group after the trace, and show each group in the legend once."""
    seen = set()
    for trace in figure.data:
        trace.update(legendgroup=trace.name, showlegend=trace.name not in seen)
        seen.add(trace.name)
