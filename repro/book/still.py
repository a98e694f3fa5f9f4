"""A plotly figure of lines and points as a PNG, drawn by matplotlib: no browser is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repro.base.errors import optional
from repro.base.files import write_atomically
from repro.base.theme import HEIGHT, INKS, PALETTE, template

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from plotly.graph_objects import Figure

PIXEL = 0.72  # points, at 100 dots per inch
LEGEND = 34  # pixels from the upper edge, below the title
INK, LINE = INKS["light"][:2]
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
MARKERS = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "x": "X"} | {
    "triangle-down": "v",
    "triangle-left": "<",
    "triangle-right": ">",
    "cross": "P",
    "star": "*",
    "star-diamond": "d",
}
STYLE: dict[Any, Any] = {
    "font.size": 12 * PIXEL,
    "text.color": INK,
    "text.parse_math": False,  # names of variants are text, whatever stands in them
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.labelsize": 13 * PIXEL,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def write(figure: Figure, path: Path, scale: float = 2) -> None:
    """Draw a figure of go.Scatter in Cartesian panels into a PNG, `scale` dots a pixel; on white, in light colours.

    Titles, axes, error bars, legend and annotations in paper coordinates are drawn; hover texts and shapes are not.
    Raises ValueError for a trace of another kind, BadInput where matplotlib is missing.
    """
    if kinds := {trace.type for trace in figure.data} - {"scatter"}:
        raise ValueError(f"Only scatter traces are drawn without a browser, not {', '.join(sorted(kinds))}.")
    with optional():
        import matplotlib
        from matplotlib.figure import Figure as Drawing
    width, height = figure.layout.width or 700, figure.layout.height or HEIGHT
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(STYLE)
        drawing = Drawing(figsize=(width / 100, height / 100), dpi=100 * scale)
        area = _plot_area(figure, width, height)
        panels = _panels(drawing, figure, area)
        for i, trace in enumerate(figure.data):
            _draw(panels[trace.xaxis or "x"], trace, PALETTE[i % len(PALETTE)])
        _write_words(drawing, figure, area)
        options: dict[str, Any] = {
            "format": "png",
            "bbox_inches": "tight",
            "pad_inches": 0.12,
        }
        write_atomically(path, lambda draft: drawing.savefig(draft, **options))


def _plot_area(figure: Figure, width: float, height: float) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) of what lies inside the margins, as shares of the figure."""
    margin = template()["layout"]["margin"] | {k: v for k, v in figure.layout.margin.to_plotly_json().items() if v}
    inner_width, inner_height = width - margin["l"] - margin["r"], height - margin["t"] - margin["b"]
    return margin["l"] / width, margin["b"] / height, inner_width / width, inner_height / height


def _panels(drawing: Drawing, figure: Figure, area: tuple[float, float, float, float]) -> dict[str, Axes]:
    """Name of each x axis -> the axes of its panel."""
    left, bottom, width, height = area
    panels: dict[str, Axes] = {}
    leaders: dict[str, Axes] = {}  # name of a y axis -> the first panel on its scale
    for trace in figure.data:
        name = trace.xaxis or "x"
        if name in panels:
            continue
        x, y = (figure.layout[f"{axis[0]}axis{axis[1:]}"] for axis in (name, trace.yaxis or "y"))
        (x0, x1), (y0, y1) = x.domain or (0, 1), y.domain or (0, 1)
        scale = y.matches or trace.yaxis or "y"
        box = (left + x0 * width, bottom + y0 * height, (x1 - x0) * width, (y1 - y0) * height)
        panels[name] = axes = drawing.add_axes(box, sharey=leaders.get(scale))
        leaders.setdefault(scale, axes)
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.tick_params(labelleft=y.showticklabels is not False)
        _scale(axes.xaxis, x)
        _scale(axes.yaxis, y)
    return panels


def _scale(axis: Any, given: Any) -> None:
    """Title, scale and ticks of one axis."""
    from matplotlib import ticker

    if given.type == "log":
        axis._set_axes_scale("log")
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(ticker.NullLocator())
    if given.tickvals is not None:
        axis.set_ticks(given.tickvals, given.ticktext)
    axis.set_label_text(given.title.text or "")


def _draw(axes: Axes, trace: Any, color: str) -> None:
    """One trace: its line, its markers, its error bars."""
    defaults = template()["data"]["scatter"][0]
    mode, symbol = trace.mode or "lines", trace.marker.symbol or "circle"
    color = trace.marker.color or trace.line.color or color
    x, y = np.asarray(trace.x, float), np.asarray(trace.y, float)
    style: dict[str, Any] = {"color": trace.line.color or color, "linestyle": "none"}
    if "lines" in mode:
        width = trace.line.width or defaults["line"]["width"]
        style |= {"linestyle": DASHES[trace.line.dash or "solid"], "linewidth": width * PIXEL}
    if "markers" in mode:
        size = (trace.marker.size or defaults["marker"]["size"]) * PIXEL
        style |= {"marker": MARKERS[symbol.removesuffix("-open")], "markersize": size, "markeredgecolor": color}
        style["markerfacecolor"] = "white" if symbol.endswith("-open") else color
    axes.plot(x, y, label=trace.name if trace.showlegend is not False else None, **style)
    if trace.error_y.array is not None:
        low = trace.error_y.array if trace.error_y.arrayminus is None else trace.error_y.arrayminus
        reach = np.asarray([low, trace.error_y.array], float)
        axes.errorbar(x, y, reach, fmt="none", ecolor=color, elinewidth=1.5 * PIXEL, capsize=3 * PIXEL)


def _write_words(drawing: Drawing, figure: Figure, area: tuple[float, float, float, float]) -> None:
    """Title, legend, titles of panels."""
    layout = figure.layout
    left, bottom, width, height = area
    upright = {"top": "top", "middle": "center", "bottom": "bottom"}
    if layout.title.text:
        drawing.text(left, layout.title.y or 1, layout.title.text, va="top", size=15 * PIXEL)
    for note in layout.annotations:
        where = left + note.x * width, bottom + note.y * height
        size = (note.font.size or 12) * PIXEL
        drawing.text(*where, note.text, size=size, ha=note.xanchor or "center", va=upright[note.yanchor or "middle"])
    if layout.showlegend is not False:
        _write_legend(drawing, layout.legend.title.text, (left, 1 - LEGEND / (layout.height or HEIGHT)), width)


def _write_legend(drawing: Drawing, title: str | None, corner: tuple[float, float], width: float) -> None:
    """In as many columns as fit into the width, a share of the figure's, below its upper left corner."""
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for axes in drawing.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    if title:
        entries = {title: Line2D([], [], linestyle="none")} | entries
    for columns in range(len(entries), 0, -1):
        options: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": corner, "borderpad": 0, "borderaxespad": 0}
        legend = drawing.legend([*entries.values()], [*entries], ncols=columns, handlelength=1.6, **options)
        if legend.get_window_extent().width <= width * drawing.bbox.width:
            return
        legend.remove()
