"""Figures of the sweep: each metric against the number of steps, and against what the codes cost."""

from __future__ import annotations

from repro.base.theme import AMBER, BLUE, GREEN, PALETTE, PROTOCOL_DASHES, VERMILION, caption
from repro.metrics.names import PROTOCOL_NAMES
from repro.sections.figures import bars, blank, label, metric_axis
from repro.sections.sweep.words import WALKS, costs
from repro.sections.types import DataFrame, Figure

COSTS = {
    "steps": "steps from the encoder's code",
    "flops_per_token": "FLOPs a token",
    "ms_per_token": "milliseconds a token",
}
SYMBOLS = {"as_released": "circle-open", "ista": "circle", "fista": "diamond", "certified": "square"}


def figures(table: DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    metrics = ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption")
    return {metric: step_figure(table, metric) for metric in metrics}


def step_figure(table: DataFrame, metric: str) -> Figure:
    """One metric against the number of ISTA steps, released (dotted) and corrected (solid); dashes = the optimum."""
    figure = blank()
    for i, (sparsity, part) in enumerate(table.groupby("sparsity")):
        color = PALETTE[i % len(PALETTE)]
        for protocol, dash in PROTOCOL_DASHES.items():
            line = part[(part["protocol"] == protocol) & (part["steps"] >= 0)].sort_values("steps")
            figure.add_scatter(
                x=line["steps"],
                y=line[metric],
                mode="lines+markers",
                name=f"k = {sparsity:g}, {PROTOCOL_NAMES[protocol]}",
                line={"color": color, "dash": dash},
                marker={"symbol": "circle" if protocol == "corrected" else "circle-open"},
                hovertext=[f"L0 {l:.4g}, lambda {lam:.3g}" for l, lam in zip(line["L0"], line["lam"])],
                **(bars(line, metric) if protocol == "corrected" else {}),
            )
        best = part[(part["protocol"] == "corrected") & (part["steps"] == -1)]
        if len(best):
            figure.add_hline(y=float(best[metric].iloc[0]), line_dash="dash", line_color=color, opacity=0.6)
    figure.update_xaxes(title_text="ISTA steps from the encoder's code")
    metric_axis(figure, metric)
    text = f"{label(metric)} against the number of steps. Dashed: the certified optimum, corrected objective."
    return caption(figure, text)


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
