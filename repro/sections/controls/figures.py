"""Figures of the controls: each metric by inference mode, and the differences over documents."""

from __future__ import annotations

from repro.base.theme import AMBER, BLUE, GREEN, VARIANT_COLORS, caption, interval
from repro.sections.controls.documents import ALL, REFINED
from repro.sections.controls.words import CODES_BY, together
from repro.sections.figures import blank, label, names_of, wrapped
from repro.sections.types import DataFrame, Figure


def controls_figure(table: DataFrame, controls: DataFrame, metric: str) -> Figure:
    """One metric of all codes at the encoder's L0, a marker an SAE, corrected protocol."""
    figure = blank()
    both = together(table, controls).dropna(subset=[metric])
    for variant, part in both.groupby("variant", sort=False):
        figure.add_scatter(
            x=part[metric],
            y=part["codes"],
            mode="markers",
            name=variant,
            marker={"color": VARIANT_COLORS[variant], "size": 9, "opacity": 0.8},
            hovertext=[f"{name}, L0 {l:.4g}" for name, l in zip(names_of(part), part["L0"])],
        )
    figure.update_yaxes(categoryorder="array", categoryarray=list(CODES_BY.values())[::-1])
    figure.update_xaxes(title_text=label(metric), type="log" if metric == "NMSE" else "linear")
    return caption(
        figure,
        f"{label(metric)} of every inference mode at the encoder's own number of nonzeros. "
        "The last three learned nothing, or not from this dictionary: what they reach, a score gives away for free.",
    )


def documents_figure(table: DataFrame, metric: str) -> Figure:
    """The difference that each mode makes to each SAE, with intervals over documents, against the encoder's L0."""
    colors = dict(zip(REFINED, (AMBER, BLUE, GREEN), strict=True))
    figure = blank()
    part = table[(table["metric"] == metric) & (table["variant"] != ALL)]
    for mode, rows in part.groupby("mode", sort=False):
        figure.add_scatter(
            x=rows["L0_encoder"].round(2),
            y=rows["difference"].round(4),
            error_y=interval(rows["difference"], rows["low"], rows["high"]),
            mode="markers",
            name=str(mode),
            marker={"color": colors[str(mode)], "size": 6},
            hovertext=names_of(rows),
        )
    figure.add_hline(y=0, line_width=1)
    figure.update_xaxes(type="log", title_text="L0 of the encoder")
    figure.update_yaxes(title_text=wrapped(f"{label(metric)}:") + "<br>refined − encoder")
    return caption(
        figure,
        f"What refinement does to {label(metric)} at the encoder's own L0, an SAE a column of points; "
        "bars are 95 % intervals over documents. Below the line is better.",
    )
