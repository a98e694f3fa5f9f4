"""Figures of the dynamics: each metric along training, the frontier, and what moves with the gap."""

from __future__ import annotations

import math

from repro.base.theme import VARIANT_COLORS, caption
from repro.sections.dynamics.words import finals, gap_correlations, sparser
from repro.sections.figures import bars, blank, label, metric_axis, names_of
from repro.sections.types import DataFrame, Figure
from repro.training.recipe import TRAINED


def figures(table: DataFrame) -> dict[str, Figure]:
    """All figures of the section by name; `released_*` are those of the released protocol."""
    corrected = ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "amort_gap_relative")
    released = ("NMSE", "dead_rate", "dense@0.1", "amort_gap_mean")
    out = {metric: trajectory_figure(table, metric) for metric in corrected}
    return out | {f"released_{metric}": trajectory_figure(table, metric, "as_released") for metric in released}


def trajectory_figure(table: DataFrame, metric: str, protocol: str = "corrected") -> Figure:
    """One metric along training (log axis, step 0 at half the first step), a panel a variant, a line a sparsity.

    The legend names the colours of the sparsest and the densest SAE of a variant; those between have no entry.
    """
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    part = table[table["protocol"] == protocol]
    variants = [v for v in TRAINED if v in set(part["variant"])]
    columns = min(3, len(variants))
    rows = math.ceil(len(variants) / columns)
    titles = [v.removesuffix("_batch_topk") if v.startswith("matryoshka") else v for v in variants]
    spacing = {"horizontal_spacing": 0.05, "vertical_spacing": 0.12}
    figure = make_subplots(rows, columns, subplot_titles=titles, shared_yaxes=True, shared_xaxes=True, **spacing)
    last, first = part["step"].max(), part.loc[part["step"] > 0, "step"].min()
    for i, variant in enumerate(variants):
        lines = sorted(part[part["variant"] == variant].groupby("sparsity"), key=lambda item: sparser(variant, item[0]))
        shades = sample_colorscale("Cividis", [0.1 + 0.75 * j / max(1, len(lines) - 1) for j in range(len(lines))])
        names = ["sparsest SAE", *[""] * (len(lines) - 2), "densest SAE"]
        for name, shade, (_, line) in zip(names, shades, lines):
            line = line.sort_values("step")
            figure.add_scatter(
                x=100 * line["step"].where(line["step"] > 0, first / 2) / last,
                y=[float(f"{y:.4g}") for y in line[metric]],
                mode="lines+markers",
                marker={"size": 5},
                name=name,
                legendgroup=name,
                showlegend=bool(name) and name not in {trace.name for trace in figure.data},
                line={"color": shade},
                hovertext=[
                    f"{sae}, step {int(s)}, L0 {l:.3g}" for sae, s, l in zip(names_of(line), line["step"], line["L0"])
                ],
                row=i // columns + 1,
                col=i % columns + 1,
                **(bars(line, metric) if len(variants) < 3 else {}),  # six panels have no room for them
            )
    metric_axis(figure, metric, part[metric], col=1)
    figure.update_xaxes(type="log", dtick=1, tickangle=0, tickfont_size=10)
    figure.update_xaxes(title_text="% of training", row=rows, col=(columns + 1) // 2)
    figure.update_annotations(font_size=13)  # a phone is 390 pixels wide
    figure.update_layout(height=260 * rows + 60 if rows > 1 else 420)
    how = "as released" if protocol == "as_released" else "corrected"
    return caption(
        figure,
        f"{label(metric)} along training, {how}, one panel a variant; dark lines are the sparsest SAEs, light ones the "
        "densest. The first point is random initialisation.",
    )


def frontier_figure(table: DataFrame, metric: str = "FVE") -> Figure:
    """A metric of the trained SAEs against the L0 they have, a line a variant."""
    figure = blank()
    for variant, line in finals(table).sort_values("L0").groupby("variant"):
        style = {"line": {"color": VARIANT_COLORS[variant]}, "mode": "lines+markers", "name": variant}
        figure.add_scatter(x=line["L0"].round(2), y=line[metric].round(4), **style)
    figure.update_xaxes(type="log", title_text="L0 of the encoder, held-out tokens")
    metric_axis(figure, metric)
    return caption(figure, f"{label(metric)} against L0 at the end of training: a line a variant.")


def gap_figure(table: DataFrame) -> Figure:
    """Rank correlation of each metric with the gap, a point a trajectory (claim C4)."""
    metrics = ["NMSE", "dead_rate", "dense@0.1", "absorption", "dF1"]
    points = gap_correlations(table).dropna(subset=["rho"])
    points = points[points["metric"].isin(metrics)]
    figure = blank()
    variants = [v for v in TRAINED if v in set(points["variant"])]
    for i, variant in enumerate(variants):
        part = points[points["variant"] == variant]
        shift = 0.12 * (i - (len(variants) - 1) / 2)
        figure.add_scatter(
            x=[metrics.index(m) + shift for m in part["metric"]],
            y=part["rho"].round(3),
            mode="markers",
            name=variant,
            marker={"color": VARIANT_COLORS[variant]},
            hovertext=names_of(part),
        )
    figure.update_xaxes(tickvals=list(range(len(metrics))), ticktext=[label(m) for m in metrics])
    figure.update_yaxes(title_text="Spearman ρ with the gap", range=[-1.08, 1.08])
    figure.add_hline(y=0, line_width=1)
    return caption(
        figure,
        "Does a metric move with the certified gap along training? A point a trajectory: +1 falls and rises with the "
        "gap, −1 against it. A metric that follows the gap would have its points near +1 for every variant.",
    )
