"""Figures of the comparison: each metric by mode, error against density, absorption against its density null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from repro.base.theme import CONTROL, FAMILY_COLORS, FAMILY_DASHES, caption
from repro.metrics.names import MODE_NAMES, MODES, PROTOCOLS
from repro.sections.comparison.words import SHOWN
from repro.sections.effects import FAMILIES, FAMILY_NAMES
from repro.sections.figures import diagonal, end_places, label, metric_axis, mode_scatter, name_of, wrapped
from repro.sections.tables import short
from repro.sections.types import DataFrame, Figure

ROW = 230
"""Pixels of a row of panels."""
RANDOM = "optimum of a random dictionary"
BETWEEN = 0.2
"""Share of the height that is left free between rows of panels, all gaps together."""


def slopes_figure(tables: Mapping[str, DataFrame], metric: str, free: Mapping[str, DataFrame] | None = None) -> Figure:
    """One metric from the encoder to the optimum: as released left, corrected right, a row of panels a language model.

    A thin line an SAE, a thick one the mean of SAEs that are trained alike. free: `controls` by language model, whose
    random dictionary is drawn beside the corrected ones.
    """
    from plotly.subplots import make_subplots

    titles = ["as released", "at equal L0"]
    space = {"horizontal_spacing": 0.06, "vertical_spacing": BETWEEN / len(tables)}
    figure = make_subplots(len(tables), 2, shared_xaxes=True, shared_yaxes=True, column_titles=titles, **space)
    for row, (model, table) in enumerate(tables.items(), 1):
        for col, protocol in enumerate(("as_released", "corrected"), 1):
            for lines in _slopes(table[table["protocol"] == protocol], metric, model, named=col == 2):
                figure.add_scatter(**lines, row=row, col=col)
        if free and model in free:
            control = free[model].loc[free[model]["mode"] == "random_dictionary", metric].mean()
            names, level = [MODE_NAMES[mode] for mode in MODES], [float(f"{control:.5g}")] * len(MODES)
            style = {"mode": "lines+text", "line": {"color": CONTROL, "dash": "dash", "width": 2}, "name": RANDOM}
            style |= {"text": ["random dictionary", "", ""], "textposition": "top right"}
            figure.add_scatter(x=names, y=level, **style, row=row, col=2)
        metric_axis(figure, metric, table[metric], row=row, col=1)
        figure.update_yaxes(title_text=f"{wrapped(model, 24)}<br>{SHOWN[metric]}", row=row, col=1)
    figure.update_annotations(font_size=12)  # a phone is 390 pixels wide
    figure.update_layout(height=110 + ROW * len(tables), margin_r=78, showlegend=False)
    saes = " and ".join(f"{table.groupby(['variant', 'sparsity']).ngroups} ({name})" for name, table in tables.items())
    return caption(
        figure,
        f"{label(metric)} of the same dictionaries under the encoder, 30 steps from its code, and the optimum (as "
        "released: 200 steps from zero). Thin: an SAE. Thick: the mean of those that are trained alike. Left, refined "
        f"codes use as many latents as they like; right, as many as the encoder. SAEs: {saes}.",
        title=_title(tables, metric),
    )


def _title(tables: Mapping[str, DataFrame], metric: str) -> str:
    """What becomes of a metric from the encoder to the optimum, both ways, for the first language model."""
    model, table = next(iter(tables.items()))
    means = table.groupby(["protocol", "mode"])[metric].mean()
    released, corrected = ([short(means[p, mode]) for mode in ("amortized", "non")] for p in PROTOCOLS)
    return (
        f"{model}, {name_of(metric)} from the encoder to the optimum: {' → '.join(released)} as released, "
        f"{' → '.join(corrected)} at equal L0"
    )


def _slopes(table: DataFrame, metric: str, model: str, named: bool) -> Iterator[dict[str, Any]]:
    """The lines of a panel: each SAE's, then the means of families, with names at their ends if `named`."""
    for (variant, sparsity), part in table.groupby(["variant", "sparsity"], sort=False):
        hover = f"{model}, {variant} {sparsity:g}"
        yield _line(part, metric) | {"line": {"color": CONTROL, "width": 1}, "name": "an SAE", "hovertext": hover}
    parts = {family: table[table["variant"].isin(variants)] for family, variants in FAMILIES.items()}
    lines = {family: _line(part, metric) for family, part in parts.items() if len(part)}
    places = end_places({family: line["y"][-1] for family, line in lines.items()})
    for family, line in lines.items():
        color = FAMILY_COLORS[family]
        yield line | {
            "line": {"color": color, "dash": FAMILY_DASHES[family], "width": 3},
            "name": FAMILY_NAMES[family],
            "mode": "lines+markers+text",
            "text": [*[""] * (len(line["x"]) - 1), FAMILY_NAMES[family] if named else ""],
            "textposition": places[family],
            "textfont": {"color": color, "size": 12},
            "cliponaxis": False,
            "hovertext": f"{model}, {FAMILY_NAMES[family]}, mean of {parts[family]['sparsity'].nunique()} sparsities",
        }


def _line(part: DataFrame, metric: str) -> dict[str, Any]:
    means = part.groupby("mode")[metric].mean()
    modes = [mode for mode in MODES if mode in means.index]
    return {"x": [MODE_NAMES[mode] for mode in modes], "y": [float(f"{y:.5g}") for y in means[modes]], "mode": "lines"}


def density_figure(table: DataFrame, model: str = "") -> Figure:
    """NMSE against L0: is a mode better at the same number of nonzeros, or does it only use more of them?"""
    figure = mode_scatter(table, "L0", "NMSE")
    d = int(table["d"].iloc[0])
    refined = table[(table["protocol"] == "as_released") & table["mode"].isin(("semi", "non"))]
    figure.add_vline(x=d, line_dash="dash")
    where = {"x": math.log10(d), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "showarrow": False}
    figure.add_annotation(text=f"d = {d}: no optimum has more ", **where)  # annotations on a log axis take logarithms
    figure.update_xaxes(type="log", title_text="L0 (mean nonzeros a token)")
    figure.update_yaxes(type="log", title_text="NMSE")
    return caption(
        figure,
        f"{model and f'{model}. '}Reconstruction error against the number of nonzeros. Filled: corrected, all three "
        "modes at the encoder's L0. "
        "Hollow: the released protocol, where refined codes use far more nonzeros than any optimum can have. "
        f"SAEs: {table.groupby(['variant', 'sparsity']).ngroups}.",
        title=f"As released, {int((refined['L0'] > d).sum())} of {len(refined)} refined codes use more nonzeros than "
        "any optimum has",
    )


def null_figure(table: DataFrame, model: str = "") -> Figure:
    """Absorption against the absorption of independent latents of the same density."""
    figure = mode_scatter(table, "absorption_null", "absorption", intervals=True)
    diagonal(figure, 1, "explained by density")
    figure.update_layout(xaxis_title="absorption expected from density alone", yaxis_title="absorption measured")
    return caption(
        figure,
        f"{model and f'{model}. '}Measured absorption against the value that independent latents with the same firing "
        "rates would give. "
        "On the dashed line the number says how dense the codes are, and nothing else; below it, less than chance. "
        "Bars: 95 % intervals over documents.",
        title=_by_chance(table),
    )


def _by_chance(table: DataFrame) -> str | None:
    """In how many cases the interval of corrected absorption holds its null."""
    if "absorption_low" not in table:
        return None
    part = table[(table["protocol"] == "corrected") & table["mode"].isin(MODES)].dropna(subset=["absorption_low"])
    inside = part["absorption_null"].between(part["absorption_low"], part["absorption_high"])
    count = f"{inside.sum()} of {len(part)} cases"
    return f"At equal L0, absorption is what density alone gives, within its interval, in {count}"
