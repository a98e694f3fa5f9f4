"""The explorer's figures: codes of one token side by side, and its objective with the certificate closing in."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from repro.base.theme import BLUE, GREY, MODE_COLORS, VERMILION, caption
from repro.inference import MODES
from repro.metrics.names import MODE_NAMES
from repro.sections.explorer.session import Explorer, State, steps_to
from repro.sections.types import DataFrame, Figure

LATENTS = 24  # bars of a figure; the rest is counted in the axis title
DUAL_FILL = "rgba(106,112,104,0.18)"


def visible(token: str) -> str:
    """A token as people can see it: no leading space, ␣ for nothing but space, ⏎ for a line break."""
    shown = token.strip(" ").replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
    return shown or "␣"


def plain(text: str) -> str:
    """Text for plotly, which reads a few HTML tags in labels: no tag survives."""
    return html.escape(text, quote=False)


def digits(values: Iterable[float], n: int = 4) -> list[float]:
    """n significant digits: a page carries hundreds of these."""
    return [float(f"{v:.{n}g}") for v in values]


def legend_names(state: State) -> dict[str, str]:
    """Names of the three modes for a legend."""
    step = "step" if state.steps == 1 else "steps"
    return MODE_NAMES | {"semi": f"{state.steps} {state.solver.upper()} {step}"}


def code_figure(explorer: Explorer, state: State, token: int) -> Figure:
    """The codes of one token under the three modes, latent by latent; the hover names what activates a latent."""
    import plotly.graph_objects as go

    table = state.table(token)
    shown = table[:LATENTS]
    latents, names = [int(j) for j in shown.index], legend_names(state)
    figure = go.Figure(
        [
            go.Bar(
                x=[str(j) for j in latents],
                y=digits(shown[mode]),
                name=names[mode],
                marker_color=MODE_COLORS[mode],
                customdata=[plain(explorer.library.words(j) or "never fires") for j in latents],
                hovertemplate="latent %{x}: %{y:.3g}<br>%{customdata}",
            )
            for mode in MODES
        ]
    )
    more = f" ({len(table) - len(latents)} more not shown)" if len(table) > len(latents) else ""
    figure.update_layout(barmode="group", bargap=0.25, height=360)
    figure.update_xaxes(title_text=f"latent{more}", type="category", tickangle=-60)
    figure.update_yaxes(title_text="code z", rangemode="tozero")
    words = visible(state.reading.tokens[token])
    return caption(figure, "Which latents fire, and how strongly.", f"Codes of the token “{words}” under three modes.")


def descent_traces(table: DataFrame, optimum: float, steps: int) -> list[dict[str, Any]]:
    """Dual and primal with the space between them, the optimum, and where `steps` is."""
    x = [position(s) for s in table["step"]]
    at = table[table["step"] <= steps].iloc[-1]
    return [
        {
            "x": x,
            "y": digits(table["dual"], 5),
            "name": "proven bound",
            "mode": "lines",
            "line": {"color": BLUE},
            "customdata": table["step"].tolist(),
            "hovertemplate": "%{customdata} steps: J* ≥ %{y:.5g}",
        },
        {
            "x": x,
            "y": digits(table["primal"], 5),
            "name": "J(z)",
            "mode": "lines",
            "line": {"color": VERMILION},
            "fill": "tonexty",
            "fillcolor": DUAL_FILL,
            "customdata": table["step"].tolist(),
            "hovertemplate": "%{customdata} steps: J = %{y:.5g}",
        },
        {
            "x": [x[0], x[-1]],
            "y": digits([optimum] * 2, 5),
            "name": "J*",
            "mode": "lines",
            "line": {"color": GREY, "dash": "dash", "width": 1.5},
            "hovertemplate": "J* = %{y:.5g}",
        },
        {
            "x": [position(steps)],
            "y": digits([at["primal"]], 5),
            "name": "here",
            "mode": "markers",
            "marker": {"color": VERMILION, "size": 11, "symbol": "diamond"},
            "showlegend": False,
            "hovertemplate": f"{steps} steps: J = %{{y:.5g}}",
        },
    ]


def position(step: float) -> float:
    """Place of a step on a logarithmic axis: step 0 is at 0.5."""
    return 0.5 if step == 0 else step


def descent_figure(explorer: Explorer, state: State, token: int, last: int = 200) -> Figure:
    """Objective and proven lower bound of one token against steps, from the encoder's code."""
    import plotly.graph_objects as go

    marks = [*steps_to(last), state.steps]
    table, _ = explorer.descent(state.reading, token, state.lam, marks, state.solver)
    optimum = float(state.objective["non"][token])
    figure = go.Figure([go.Scatter(trace) for trace in descent_traces(table, optimum, state.steps)])
    ticks = [s for s in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if s <= last]
    axis = {"type": "log", "tickvals": [position(s) for s in ticks], "ticktext": [str(s) for s in ticks]}
    title = "steps from the encoder's code"
    figure.update_layout(height=360, xaxis=axis, xaxis_title=title, yaxis_title="objective J, units of x²")
    words = visible(state.reading.tokens[token])
    return caption(
        figure,
        "The objective falls, the proven bound rises: the optimum is between them.",
        f"Objective and dual bound of the token “{words}” against {state.solver.upper()} steps.",
    )
