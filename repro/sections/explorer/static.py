"""The explorer without a kernel: figures whose sliders carry every position with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from repro.base.theme import MODE_COLORS, caption
from repro.inference import MODES
from repro.metrics.names import MODE_NAMES
from repro.sections.explorer.figures import (
    LATENTS,
    code_traces,
    descent_axis,
    descent_traces,
    digits,
    plain,
    position,
    visible,
)
from repro.sections.explorer.session import Explorer, State, steps_to
from repro.sections.types import Figure

LAST = 200  # steps that are followed
FEWER = 12  # bars of a token where a figure holds many tokens
SLIDER = {
    "bgcolor": "rgba(128,134,145,0.25)",
    "activebgcolor": "#1a66b6",
    "bordercolor": "rgba(128,134,145,0.55)",
    "tickcolor": "rgba(128,134,145,0.8)",
    "ticklen": 4,
    "minorticklen": 0,
    "len": 1.0,
    "x": 0,
    "xanchor": "left",
    "yanchor": "top",
    "pad": {"t": 0, "b": 0},
    "transition": {"duration": 0},
}
LEGEND = {
    "orientation": "h",
    "x": 0,
    "yanchor": "bottom",
    "traceorder": "normal",
    "itemwidth": 30,
    "font": {"size": 12},
}


def lambdas(state: State, each_side: int = 6) -> list[float]:
    """From an eighth of a state's lambda to eight times, its own in the middle."""
    return [state.lam * 2 ** (3 * i / each_side) for i in range(-each_side, each_side + 1)]


def lambda_figure(explorer: Explorer, state: State, token: int) -> Figure:
    """Three panels on one slider for lambda: gap of every token, codes of one, its objective against steps."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    reading = state.reading
    states = [explorer.state(reading, lam, state.steps, state.solver) for lam in lambdas(state)]
    tables = [s.table(token) for s in states]
    used = sum(t[list(MODES)].max(axis=1).reindex(range(explorer.sae.config.m), fill_value=0.0) for t in tables)
    latents = [int(j) for j in used.nlargest(LATENTS).index if used[j] > 0]
    shown = [i for i, counts in enumerate(reading.counted.tolist()) if counts]

    def traces(s: State, table: Any) -> list[dict[str, Any]]:
        steps, _ = explorer.descent(reading, token, s.lam, [*steps_to(LAST), s.steps], s.solver)
        gap = {
            "type": "bar",
            "x": shown,
            "y": digits(100 * s.share()[shown], 3),
            "marker": {"color": MODE_COLORS["amortized"], "opacity": [1.0 if i == token else 0.45 for i in shown]},
            "showlegend": False,
            "hovertemplate": "%{x}: %{y:.3g} %<extra></extra>",
        }
        return [gap, *code_traces(explorer, s, latents, table), *descent_traces(steps, _optimum(s, token), s.steps)]

    figure = make_subplots(rows=3, cols=1, vertical_spacing=0.19, row_heights=[0.24, 0.38, 0.38])
    middle = len(states) // 2
    first = traces(states[middle], tables[middle])
    for trace in first:
        kind = go.Bar if trace.get("type") == "bar" else go.Scatter
        row = 1 if trace is first[0] else 2 if kind is go.Bar else 3
        figure.add_trace(kind({k: v for k, v in trace.items() if k != "type"}), row=row, col=1)
    marks = [
        _mark(f"{s.lam:.3g}", traces(s, t), list(range(len(first))), _lambda_title(s, i == middle))
        for i, (s, t) in enumerate(zip(states, tables))
    ]
    words = [plain(visible(reading.tokens[i])) for i in shown]
    figure.update_xaxes(tickvals=shown, ticktext=words, tickangle=-60, tickfont_size=11, row=1, col=1)
    figure.update_xaxes(type="category", tickangle=-60, title_text="latent", row=2, col=1)
    figure.update_xaxes(descent_axis(LAST), row=3, col=1)
    word = plain(visible(reading.tokens[token]))
    figure.update_yaxes(title_text="gap, % of J", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text=f"code z of “{word}”", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title_text=f"J of “{word}”, units of x²", row=3, col=1)
    _finish(figure, marks, middle, "lambda = ", 1000)
    return caption(
        figure,
        "Move lambda: the gap of every token, the codes of one token, and its objective against steps. In the lowest "
        "panel the optimum lies between the two curves, whatever the solver does.",
    )


def step_figure(explorer: Explorer, state: State, token: int) -> Figure:
    """Two panels on one slider for steps: the codes after so many steps, and where the objective stands."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    marks = sorted({*steps_to(LAST), state.steps})
    table, codes = explorer.descent(state.reading, token, state.lam, marks, state.solver)
    ends = state.table(token)
    latents = [int(j) for j in ends[list(MODES)].max(axis=1).nlargest(LATENTS).index]
    figure = make_subplots(rows=2, cols=1, vertical_spacing=0.24)
    names = MODE_NAMES | {"semi": "after the steps"}
    start = marks.index(state.steps)
    for trace in code_traces(explorer, state, latents, ends):
        mode = MODES[len(figure.data)]
        trace = {k: v for k, v in trace.items() if k != "type"} | {"name": names[mode]}
        if mode == "semi":
            trace["y"] = _column(codes[marks[start]], latents)
        figure.add_trace(go.Bar(trace), row=1, col=1)
    for trace in descent_traces(table, _optimum(state, token), marks[start]):
        figure.add_trace(go.Scatter(trace), row=2, col=1)
    moves: list[dict[str, Any]] = [
        {
            "label": str(s),
            "method": "update",
            "args": [
                {"y": [_column(codes[s], latents), digits([row["primal"]], 5)], "x": [None, [position(s)]]},
                {"title.text": _step_title(s, row, int(codes[s].l0[0]))},
                [1, len(figure.data) - 1],
            ],
        }
        for s, (_, row) in zip(marks, table.iterrows())
    ]
    for move in moves:  # the bars keep their latents
        move["args"][0]["x"][0] = [str(j) for j in latents]
    figure.update_xaxes(type="category", tickangle=-60, title_text="latent", row=1, col=1)
    figure.update_xaxes(descent_axis(LAST), row=2, col=1)
    word = plain(visible(state.reading.tokens[token]))
    figure.update_yaxes(title_text=f"code z of “{word}”", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text=f"J of “{word}”, units of x²", row=2, col=1)
    _finish(figure, moves, start, f"{state.solver.upper()} steps = ", 740)
    return caption(
        figure,
        "Move the steps: from the encoder's code (0) the codes drift to the optimum's, and the certificate closes.",
    )


def token_figure(explorer: Explorer, state: State, token: int) -> Figure:
    """One slider for the token: its codes under the three modes."""
    import plotly.graph_objects as go

    shown = [i for i, counts in enumerate(state.reading.counted.tolist()) if counts]
    figure, moves = go.Figure(), []
    for i in shown:
        table = state.table(i)
        latents = [int(j) for j in table.index[:FEWER]]
        traces = code_traces(explorer, state, latents, table)
        for trace in traces[:2]:  # one trace that names the latents is enough: names weigh more than numbers
            del trace["customdata"]
            trace["hovertemplate"] = "latent %{x}: %{y:.3g}"
        word, l0 = visible(state.reading.tokens[i]), {m: int(state.codes[m].l0[i]) for m in MODES}
        title = (
            f"“{plain(word)}”; the encoder's gap: {float(state.share()[i]):.1%} of J<br>"
            f"nonzeros: {l0['amortized']} by the encoder, {l0['non']} at the optimum"
        )
        moves.append(_mark(word, traces, [0, 1, 2], title, ("x", "y", "customdata")))
        if i == token:
            figure.add_traces([go.Bar({k: v for k, v in t.items() if k != "type"}) for t in traces])
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title_text="latent", type="category", tickangle=-60)
    figure.update_yaxes(title_text="code z", rangemode="tozero")
    _finish(figure, moves, shown.index(token), "token: ", 470)
    return caption(figure, "Move along the text: which latents each token gets from encoder, steps and optimum.")


def _optimum(state: State, token: int) -> float:
    return float(state.objective["non"][token])


def _column(codes: Any, latents: Sequence[int]) -> list[float]:
    dense = codes.to_dense()[0]
    return digits(dense[list(latents)].tolist())


def _mark(
    label: str, traces: list[dict[str, Any]], which: list[int], title: str, keys: tuple[str, ...] = ("y",)
) -> dict[str, Any]:
    """A position of a slider: new values of traces, and the title that says the numbers."""
    new = {key: [trace.get(key, []) for trace in traces] for key in keys}
    return {"label": plain(label), "method": "update", "args": [new, {"title.text": title}, which]}


def _lambda_title(state: State, matched: bool) -> str:
    s = state.summary()
    at = " (L0 matched)" if matched else ""
    return (
        f"λ = {state.lam:.3g}{at}; the encoder's gap: {s.loc['amortized', 'share']:.1%} of J<br>"
        f"L0 {s.loc['amortized', 'L0']:.1f} by the encoder, {s.loc['non', 'L0']:.1f} at the optimum"
    )


def _step_title(step: int, row: Any, l0: int) -> str:
    gap = row["gap"] / row["primal"] if row["primal"] > 0 else math.nan
    return f"after {step} steps: {l0} nonzeros, J = {row['primal']:.4g},<br>proven gap {gap:.2%} of J"


def _finish(figure: Figure, moves: list[dict[str, Any]], active: int, prefix: str, height: int) -> None:
    """The slider below, the title of its position above, a legend over each panel that needs one."""
    above, below = 104, 150
    slider = {
        **SLIDER,
        "steps": moves,
        "active": active,
        "y": -(below - 50) / (height - above - below),
        "currentvalue": {"prefix": prefix, "xanchor": "left", "font": {"size": 13}},
    }
    figure.update_layout(
        sliders=[slider],
        title={"text": moves[active]["args"][1]["title.text"], "font": {"size": 13}, "automargin": False},
        barmode="group",
        bargap=0.25,
        height=height,
        margin={"t": above, "b": below, "l": 56, "r": 12},
        legend=LEGEND,
    )
    for trace in figure.data:  # named ones only: bars share a legend, lines another
        panel = (trace.yaxis or "y").removeprefix("y")
        if trace.showlegend is not False and panel:
            name = f"legend{panel}"
            trace.legend = name
            top = figure.layout[f"yaxis{panel}"].domain[1]
            figure.layout[name] = {**LEGEND, "y": top}
