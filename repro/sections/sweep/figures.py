"""Figures of the sweep: each metric against the number of steps, and against what the codes cost."""

from __future__ import annotations

from collections.abc import Mapping

from repro.base.theme import MODE_COLORS, MODE_SYMBOLS, PROTOCOL_DASHES, VARIED, caption
from repro.metrics.names import PROTOCOL_NAMES
from repro.sections.figures import TITLED, bars, blank, label, legend_once, metric_axis, name_of, wrapped
from repro.sections.sweep.words import WALKS, costs
from repro.sections.tables import short
from repro.sections.types import DataFrame, Figure

COSTS = {
    "steps": "steps from the encoder's code",
    "flops_per_token": "FLOPs a token",
    "ms_per_token": "milliseconds a token",
}
WAYS = {"as_released": "ista", "ista": "ista", "fista": "fista", "certified": "certified"}
"""Way to codes -> the mode whose colour and symbol it has."""

BEST = {"color": MODE_COLORS["optimum"], "dash": "dash"}


def step_figure(tables: Mapping[str, DataFrame], metric: str) -> Figure:
    """One metric against the number of ISTA steps, a panel a language model: released, corrected, certified optimum.

    tables: `sweep` by language model, in the order of the panels; a line an SAE.
    """
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": [wrapped(model, 48 // len(tables)) for model in tables], "x_title": COSTS["steps"]}
    figure = make_subplots(1, len(tables), horizontal_spacing=0.14, **panels)
    for col, table in enumerate(tables.values(), 1):
        for (_, protocol), part in table.groupby(["sparsity", "protocol"]):
            line = part[part["steps"] >= 0].sort_values("steps")
            figure.add_scatter(
                x=line["steps"],
                y=[float(f"{y:.5g}") for y in line[metric]],
                mode="lines+markers",
                name=f"ISTA steps, {PROTOCOL_NAMES[str(protocol)]}",
                line={"color": MODE_COLORS["semi"], "dash": PROTOCOL_DASHES[str(protocol)]},
                marker={
                    "color": [MODE_COLORS["semi" if steps else "encoder"] for steps in line["steps"]],
                    "symbol": f"circle{'' if protocol == 'corrected' else '-open'}",
                    "size": 7,
                },
                hovertext=[f"k {k:g}, L0 {l:.4g}" for k, l in zip(line["sparsity"], line["L0"])],
                row=1,
                col=col,
                **(bars(line, metric) if protocol == "corrected" else {}),
            )
            best = {"mode": "lines", "name": WALKS["certified"], "line": BEST}
            for y in part.loc[(part["steps"] == -1) & (part["protocol"] == "corrected"), metric].dropna():
                x, level = [0, line["steps"].max()], [float(f"{y:.5g}")] * 2
                figure.add_scatter(x=x, y=level, **best, row=1, col=col)
    figure.update_annotations(font_size=12)  # a phone is 390 pixels wide
    legend_once(figure)
    key = {"mode": "markers", "name": "encoder", "marker": {"color": MODE_COLORS["encoder"], "size": 7}}
    figure.add_scatter(x=[None], y=[None], **key, row=1, col=1)
    metric_axis(figure, metric, row=1, col=1)
    figure.update_layout(margin_b=TITLED)
    saes = " and ".join(f"{table['sparsity'].nunique()} ({model})" for model, table in tables.items())
    return caption(
        figure,
        f"{label(metric)} against the number of steps from the encoder's code. Bars: 95 % intervals over documents. "
        f"A line an SAE: {saes}.",
        title=_title(tables, metric),
    )


def _title(tables: Mapping[str, DataFrame], metric: str) -> str:
    """What becomes of a metric from the encoder to the last step, both ways, for the first language model."""
    model, table = next(iter(tables.items()))
    rows = table[table["steps"] >= 0].dropna(subset=[metric])
    parts = []
    for protocol, part in rows.groupby("protocol"):
        means = part.groupby("steps")[metric].mean()
        parts.append(f"{short(means.iloc[0])} → {short(means.iloc[-1])} {PROTOCOL_NAMES[str(protocol)]}")
    return f"{model}, {name_of(metric)} from the encoder to {rows['steps'].max():.0f} steps: {', '.join(parts)}"


def cost_figure(table: DataFrame, fista: DataFrame | None, metric: str, against: str) -> Figure:
    """One metric against what the codes cost, a line a solver, mean over SAEs; the optimum is a square."""
    both, figure = costs(table, fista), blank()
    for way, mode in WAYS.items():
        part = both[both["way"] == way].dropna(subset=[against, metric])
        mean = part.assign(at=part[against]).groupby("steps")[["at", metric, "L0"]].mean()
        if not len(mean) or (way == "certified" and against == "steps"):
            continue
        color, released = MODE_COLORS[mode], way == "as_released"
        figure.add_scatter(
            x=mean["at"],
            y=mean[metric],
            mode="markers" if way == "certified" else "lines+markers",
            name=WALKS[way],
            line={"color": color, "dash": "dot" if released else VARIED.get(way, "solid")},
            marker={
                "color": color,
                "size": 12 if way == "certified" else 7,
                "symbol": MODE_SYMBOLS[mode] + ("-open" if released else ""),
            },
            hovertext=[f"{s} steps, L0 {l:.4g}" if s >= 0 else f"L0 {l:.4g}" for s, l in zip(mean.index, mean["L0"])],
        )
    scale = "linear" if against == "steps" else "log"
    figure.update_xaxes(title_text=COSTS[against], type=scale)
    metric_axis(figure, metric)
    return caption(
        figure,
        f"{label(metric)} against {COSTS[against]}, mean over the BatchTopK SAEs. Corrected lines share "
        "one λ and end at the square, the certified optimum; the leftmost point of each is the encoder. Times were "
        "measured on the machine that the table's provenance names.",
        title=_ends(both, metric, against),
    )


def _ends(both: DataFrame, metric: str, against: str) -> str:
    """What the last step of each walk reaches, or what it costs as a multiple of the certified optimum."""
    walks = {way: part for way, part in both.groupby("way") if way != "certified"}
    ends = {WALKS[way]: part[part["steps"] == part["steps"].max()] for way, part in walks.items()}
    last = f"{both['steps'].max():.0f} steps"
    if against == "steps":
        means = {way: end[[metric, "L0"]].mean() for way, end in ends.items()}
        shown = [f"{short(m[metric])} with {m['L0']:,.0f} nonzeros ({way})" for way, m in means.items()]
        return f"{name_of(metric)} after {last}: {', '.join(shown)}"
    optimum = both[both["way"] == "certified"][against].mean()
    times = ", ".join(f"{end[against].mean() / optimum:.2g} ({way})" for way, end in ends.items())
    return f"{last} cost so many times the {COSTS[against]} of the certified optimum: {times}"
