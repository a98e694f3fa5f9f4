"""One look for every figure: colours that survive colour blindness and dark mode, and a few short helpers."""

from __future__ import annotations

import os
from textwrap import wrap
from typing import Any

from repro.base.errors import optional
from repro.base.ticks import round_ticks

# Seven colours, each for one thing in all figures (MEANINGS). Each has a contrast of about 3 or more on white and on
# the book's dark page, and any two stay apart (CIELAB distance over 20) for normal, protan, deutan and tritan sight;
# tests/test_report.py computes both.
BLUE, VERMILION, GREEN, PINK, AMBER, VIOLET, GREY = PALETTE = (
    "#1a66b6",
    "#b0441a",
    "#16a85c",
    "#bb7db1",
    "#cd8300",
    "#9747f9",
    "#6a7068",
)

MEANINGS = {
    "encoder": VERMILION,
    "steps from the encoder's code": AMBER,
    "optimum": BLUE,
    "pursuit": GREEN,
    "controls, references, single SAEs": GREY,
    "SAEs trained with L1": VIOLET,
    "SAEs trained with a k": PINK,
}
"""What a colour means, in every figure; within a meaning, symbols, dashes and labels tell things apart."""
CONTROL = GREY
SHADES = ("#203c6f", "#46516c", "#626670", "#7d7b76", "#999276", "#b7aa6d", "#d6c35c")
"""From the lowest to the highest of values in order (Cividis without its ends)."""
MODE_COLORS = {
    **dict.fromkeys(("amortized", "encoder", "local", "encoder_refit", "refit"), VERMILION),
    **dict.fromkeys(("semi", "semi_same_lambda", "ista", "fista"), AMBER),
    **dict.fromkeys(("non", "optimum", "certified", "certified_k", "optimum_refit"), BLUE),
    **dict.fromkeys(("pursuit", "ompr"), GREEN),
    **dict.fromkeys(("random_dictionary", "random_encoder", "pca"), CONTROL),
}
"""Colour by inference mode, solver or control, by the names of all tables."""
MODE_SYMBOLS = {
    "amortized": "circle",
    "encoder": "circle",
    "local": "triangle-up",
    "encoder_refit": "triangle-left",
    "refit": "triangle-left",
    "semi": "diamond",
    "semi_same_lambda": "diamond-open",
    "ista": "diamond",
    "fista": "star-diamond",
    "non": "square",
    "optimum": "square",
    "certified": "square",
    "certified_k": "square-open",
    "optimum_refit": "triangle-right",
    "pursuit": "triangle-up",
    "ompr": "triangle-down",
    "random_dictionary": "x",
    "random_encoder": "star",
    "pca": "cross",
}
VARIED = {"encoder_refit": "dash", "refit": "dash", "optimum_refit": "dash", "ompr": "dash", "fista": "dash"}
"""Dash of the line of a mode that has the colour of another."""
PART_COLORS = {"values": "#d98f6c", "support": VERMILION, "dictionary": GREEN}
"""Parts of the encoder's error: of the guess (the encoder's colour, light for the values), and what pursuit leaves."""
PROTOCOL_DASHES = {"corrected": "solid", "as_released": "dot"}
FAMILY_COLORS = {"L1": VIOLET, "gates": VIOLET, "k": PINK}
"""Colour of SAEs by what makes them sparse in training."""
FAMILY_DASHES = {"L1": "solid", "gates": "dash", "k": "solid"}
VARIANT_LOOKS = {
    "standard": ("L1", "circle"),
    "gated": ("gates", "diamond"),
    "topk": ("k", "square"),
    "batch_topk": ("k", "triangle-up"),
    "matryoshka_batch_topk": ("k", "triangle-down"),
    "jumprelu": ("k", "cross"),
    "loca": ("k", "x"),
}
"""Family and symbol of each variant."""


def variant_marker(variant: str) -> dict[str, Any]:
    """marker of a variant: the colour of its family and a symbol of its own; a grey star for other names."""
    family, symbol = VARIANT_LOOKS.get(variant, (None, "star"))
    return {"color": FAMILY_COLORS[family] if family else GREY, "symbol": symbol}


HEIGHT = 420  # pixels of a figure that does not say
TITLE = 84  # characters of a line of a title
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# (text, axis line, grid, hover box). "neutral" is what a notebook stores: greys that read on white and on black,
# because JupyterLab and a PNG do not know the page behind them. The book swaps in light or dark.
INKS = {
    "neutral": ("#7a7f87", "#8a8f98", "rgba(128,134,145,0.22)", "#2b313a"),
    "light": ("#2f3742", "#9aa1ac", "rgba(30,41,59,0.10)", "#ffffff"),
    "dark": ("#d5dae1", "#6b7480", "rgba(203,213,225,0.13)", "#2a313b"),
}


def template(ink: str = "neutral") -> dict[str, Any]:
    """The plotly template as a plain dict; ink is neutral, light or dark."""
    text, line, grid, box = INKS[ink]
    axis = {
        "automargin": True,
        "gridcolor": grid,
        "linecolor": line,
        "showline": True,
        "tickcolor": line,
        "ticklen": 4,
        "ticks": "outside",
        "title": {"standoff": 10},
        "zeroline": False,
    }
    bare = {"outlinewidth": 0, "thickness": 12, "ticklen": 4, "tickcolor": line}
    scene = {"backgroundcolor": "rgba(0,0,0,0)", "gridcolor": grid, "linecolor": line, "zerolinecolor": line}
    return {
        "layout": {
            "annotationdefaults": {"arrowcolor": line, "arrowhead": 0, "arrowwidth": 1, "font": {"size": 12}},
            "autosize": True,
            "autotypenumbers": "strict",
            "coloraxis": {"colorbar": bare},
            "colorscale": {"sequential": "Cividis", "sequentialminus": "Cividis", "diverging": "RdBu"},
            "colorway": list(PALETTE),
            "font": {"color": text, "family": FONT, "size": 13},
            "height": HEIGHT,
            "hoverlabel": {
                "align": "left",
                "bgcolor": box,
                "bordercolor": line,
                "font": {"color": "#f2f4f7" if ink == "neutral" else text, "family": FONT, "size": 13},
            },
            "hovermode": "closest",
            # Above the plot and left-aligned: the one place that never collides with the x title at phone width.
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "margin": {"b": 48, "l": 56, "r": 12, "t": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "scene": {"xaxis": scene, "yaxis": scene, "zaxis": scene},
            "shapedefaults": {"line": {"color": line, "width": 1.5}},
            "title": {
                "automargin": True,
                "font": {"size": 15},
                "pad": {"b": 12},
                "x": 0,
                "xanchor": "left",
                "xref": "paper",
                "yref": "container",
            },
            "xaxis": axis,
            "yaxis": axis,
        },
        "data": _traces(text, bare),
    }


def _traces(text: str, bare: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the kinds of traces; colour bars in `bare`."""
    # Said again for heat maps: left alone, plotly.js paints them in a diverging scale.
    heat = [{"colorbar": bare, "colorscale": "Cividis"}]
    return {
        "bar": [{"marker": {"line": {"width": 0}}, "error_y": {"color": text, "thickness": 1.5, "width": 3}}],
        "heatmap": heat,
        "contour": heat,
        "histogram2d": heat,
        "scatter": [{"line": {"width": 2}, "marker": {"size": 8}, "error_y": {"thickness": 1.5, "width": 3}}],
    }


def use_theme() -> None:
    """Make this the default look, and let figures travel as plotly JSON (drawn by JupyterLab and by the book).

    With REPRO_PNG=1 each figure carries a PNG too, for viewers that cannot draw plotly (needs kaleido and a
    Chromium named by BROWSER_PATH). Raises BadInput when plotly, or kaleido if asked for, is missing.
    """
    with optional():
        import plotly.graph_objects as go
        import plotly.io as pio
    pio.templates["repro"] = go.layout.Template(template())
    pio.templates.default = "repro"
    pio.renderers.default = "plotly_mimetype"
    if os.environ.get("REPRO_PNG") == "1":
        with optional():
            import kaleido
        kaleido.start_sync_server(silence_warnings=True)  # one browser for all figures: 0.2 s each after the first
        png = pio.renderers["png"]
        png.width, png.height, png.scale = 800, None, 2
        pio.renderers.default = "plotly_mimetype+png"


def mode_style(mode: str, protocol: str = "corrected") -> dict[str, Any]:
    """line and marker of a go.Scatter for an inference mode under a protocol: `go.Scatter(..., **mode_style("semi"))`.

    Colour and symbol say the mode; a solid line with filled symbols is corrected, dotted and hollow is as released.
    """
    key = mode.removesuffix("_amortized")
    color, symbol = MODE_COLORS[key], MODE_SYMBOLS[key]
    dash = VARIED.get(key, "solid") if protocol == "corrected" else PROTOCOL_DASHES[protocol]
    return {
        "line": {"color": color, "dash": dash},
        "marker": {"color": color, "symbol": symbol if protocol == "corrected" else f"{symbol}-open"},
    }


def interval(value: Any, low: Any, high: Any) -> dict[str, Any]:
    """error_y (or error_x) that reaches from `low` to `high` around `value`; each a sequence of equal length."""
    triples = list(zip(value, low, high))
    # six digits: a page holds hundreds of these
    up, down = [float(f"{h - v:.6g}") for v, _, h in triples], [float(f"{v - l:.6g}") for v, l, _ in triples]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def caption(figure: Any, text: str, alt: str | None = None, title: str | None = None) -> Any:
    """Attach a caption (what to see), a text alternative and a title (the finding). Returns the figure.

    The book prints the title above the figure and the caption below, and speaks the alternative. A legend goes above
    the titles of panels, where there are any: both would stand at the upper edge of the plot.
    """
    round_ticks(figure)
    if title:
        figure.update_layout(title_text="<br>".join(wrap(title, TITLE)))
    titles = [a for a in figure.layout.annotations if a.yref == "paper" and a.yanchor == "bottom" and a.y > 0.99]
    has_legend = figure.layout.showlegend is not False
    if titles and has_legend and any(trace.showlegend is not False and trace.name for trace in figure.data):
        inner = (figure.layout.height or HEIGHT) - 112  # margins above and below
        lines = max(a.text.count("<br>") for a in titles)
        figure.update_layout(legend_y=1 + (26 + 17 * lines) / inner, margin_t=72 + 17 * lines)
    return figure.update_layout(meta={"caption": text, "alt": alt or text})
