"""Figures of the sweep: each metric against the number of steps, and against what the codes cost."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.theme import AMBER, BLUE, GREEN, PROTOCOL_DASHES, VERMILION, caption
from repro.metrics.names import PROTOCOL_NAMES
from repro.sections.figures import TITLED, bars, blank, label, legend_once, metric_axis, wrapped
from repro.sections.sweep.words import WALKS, costs
from repro.sections.types import DataFrame, Figure

COSTS = {
    "steps": "steps from the encoder's code",
    "flops_per_token": "FLOPs a token",
    "ms_per_token": "milliseconds a token",
}
PROTOCOL_COLORS = {"as_released": VERMILION, "corrected": BLUE}
SYMBOLS = {"as_released": "circle-open", "ista": "circle", "fista": "diamond", "certified": "square"}


def step_figure(tables: Mapping[str, DataFrame], metric: str) -> Figure:
    """One metric against the number of ISTA steps, a panel a language model: released, corrected, certified optimum.

    tables: `sweep` by language model, in the order of the panels; a line an SAE.
    """
    from plotly.subplots import make_subplots

    titles = [wrapped(model, 24) for model in tables]
    figure = make_subplots(1, len(tables), subplot_titles=titles, horizontal_spacing=0.09, x_title=COSTS["steps"])
    for col, table in enumerate(tables.values(), 1):
        for (_, protocol), part in table.groupby(["sparsity", "protocol"]):
            line, color = part[part["steps"] >= 0].sort_values("steps"), PROTOCOL_COLORS[str(protocol)]
            figure.add_scatter(
                x=line["steps"],
                y=[float(f"{y:.5g}") for y in line[metric]],
                mode="lines+markers",
                name=PROTOCOL_NAMES[str(protocol)],
                line={"color": color, "dash": PROTOCOL_DASHES[str(protocol)]},
                marker={"symbol": "circle" if protocol == "corrected" else "circle-open"},
                hovertext=[f"k {k:g}, L0 {l:.4g}" for k, l in zip(line["sparsity"], line["L0"])],
                row=1,
                col=col,
                **(bars(line, metric) if protocol == "corrected" else {}),
            )
            for best in part.loc[(part["steps"] == -1) & (part["protocol"] == "corrected"), metric].dropna():
                figure.add_hline(
                    y=float(f"{best:.5g}"), line_dash="dash", line_color=color, opacity=0.6, row=1, col=col
                )
    legend_once(figure)
    metric_axis(figure, metric, row=1, col=1)
    figure.update_layout(margin_b=TITLED)
    saes = " and ".join(f"{table['sparsity'].nunique()} ({model})" for model, table in tables.items())
    return caption(
        figure,
        f"{label(metric)} against the number of steps. Dashed: the certified optimum, corrected objective. Bars: 95 % "
        f"intervals over documents. SAEs: {saes}.",
    )


def cost_figure(table: DataFrame, fista: DataFrame | None, metric: str, against: str) -> Figure:
    """One metric against what the codes cost, a line a solver, mean over SAEs; the optimum is a square."""
    colors = {"as_released": VERMILION, "ista": AMBER, "fista": GREEN, "certified": BLUE}
    both, figure = costs(table, fista), blank()
    for way, color in colors.items():
        part = both[both["way"] == way].dropna(subset=[against, metric])
        mean = part.assign(at=part[against]).groupby("steps")[["at", metric, "L0"]].mean()
        if not len(mean) or (way == "certified" and against == "steps"):
            continue
        figure.add_scatter(
            x=mean["at"],
            y=mean[metric],
            mode="markers" if way == "certified" else "lines+markers",
            name=WALKS[way],
            line={"color": color, "dash": "dot" if way == "as_released" else "solid"},
            marker={"color": color, "size": 12 if way == "certified" else 7, "symbol": SYMBOLS[way]},
            hovertext=[f"{s} steps, L0 {l:.4g}" if s >= 0 else f"L0 {l:.4g}" for s, l in zip(mean.index, mean["L0"])],
        )
    scale = "linear" if against == "steps" else "log"
    figure.update_xaxes(title_text=COSTS[against], type=scale, exponentformat="power")
    metric_axis(figure, metric)
    return caption(
        figure,
        f"{label(metric)} against {COSTS[against]}, mean over the BatchTopK SAEs. Corrected lines share "
        "one λ and end at the square, the certified optimum; the leftmost point of each is the encoder. Times were "
        "measured on the machine that the table's provenance names.",
    )
