"""Figures of the comparison: each metric by mode, error against density, absorption against its density null."""

from __future__ import annotations

import math

from repro.base.theme import PROTOCOL_DASHES, VARIANT_COLORS, caption
from repro.metrics.names import MODE_NAMES, MODES, PROTOCOL_NAMES
from repro.sections.figures import bars, blank, diagonal, label, legend_once, metric_axis, mode_scatter
from repro.sections.types import DataFrame, Figure


def figures(table: DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    metrics = ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption")
    by_metric = {metric: metric_figure(table, metric) for metric in metrics}
    return by_metric | {"density": density_figure(table), "null": null_figure(table)}


def metric_figure(table: DataFrame, metric: str) -> Figure:
    """One metric against the mode, a line an SAE: released (dotted) and corrected (solid, with intervals)."""
    figure = blank()
    for (protocol, variant, _), part in table.groupby(["protocol", "variant", "sparsity"], sort=False):
        part = part.set_index("mode").reindex([m for m in MODES if m in set(part["mode"])]).reset_index()
        figure.add_scatter(
            x=part["mode"].map(MODE_NAMES),
            y=part[metric],
            mode="lines+markers",
            name=f"{variant}, {PROTOCOL_NAMES[protocol]}",
            line={"color": VARIANT_COLORS[variant], "dash": PROTOCOL_DASHES[protocol]},
            marker={"symbol": "circle-open" if protocol == "as_released" else "circle"},
            hovertext=[f"sparsity {s:g}, L0 {l:.4g}" for s, l in zip(part["sparsity"], part["L0"])],
            **(bars(part, metric) if protocol == "corrected" else {}),
        )
    legend_once(figure)
    figure.update_xaxes(title_text="inference")
    metric_axis(figure, metric)
    return caption(
        figure,
        f"{label(metric)} of the same dictionaries under three kinds of inference. "
        "Dotted, hollow: the released protocol.",
    )


def density_figure(table: DataFrame) -> Figure:
    """NMSE against L0: is a mode better at the same number of nonzeros, or does it only use more of them?"""
    figure = mode_scatter(table, "L0", "NMSE")
    d = int(table["d"].iloc[0])
    figure.add_vline(x=d, line_dash="dash")
    where = {"x": math.log10(d), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "showarrow": False}
    figure.add_annotation(text=f"d = {d}: no optimum has more ", **where)  # annotations on a log axis take logarithms
    figure.update_xaxes(type="log", title_text="L0 (mean nonzeros a token)")
    figure.update_yaxes(type="log", title_text="NMSE")
    return caption(
        figure,
        "Reconstruction error against the number of nonzeros. Filled: corrected, all three modes at the encoder's L0. "
        "Hollow: the released protocol, where refined codes use far more nonzeros than any optimum can have.",
    )


def null_figure(table: DataFrame) -> Figure:
    """Absorption against the absorption of independent latents of the same density."""
    figure = mode_scatter(table, "absorption_null", "absorption", intervals=True)
    diagonal(figure, 1, "explained by density")
    figure.update_layout(xaxis_title="absorption expected from density alone", yaxis_title="absorption measured")
    return caption(
        figure,
        "Measured absorption against the value that independent latents with the same firing rates would give. "
        "On the dashed line the number says how dense the codes are, and nothing else.",
    )
