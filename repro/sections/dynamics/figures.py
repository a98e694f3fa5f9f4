"""Figures of the dynamics: each metric along training, the frontier, and what moves with the gap; a column a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from repro.base.theme import CONTROL, FAMILY_COLORS, caption, variant_marker
from repro.sections.dynamics.words import SHOWN, UNITS, finals, gap_correlations, sparser
from repro.sections.effects import FAMILIES, FAMILY_NAMES, LATE, keys_of, of_family, over_training
from repro.sections.figures import TITLED, end_places, label, legend_once, metric_axis, names_of, wrapped
from repro.sections.types import DataFrame, Figure
from repro.training.recipe import TRAINED

SPARSER, DENSER = "sparser", "denser"
DASHES = {SPARSER: "solid", DENSER: "dash", "": "solid"}
"""Half of the SAEs -> dash of the line of its mean; no name where there is one SAE."""
ROW = 190
"""Pixels of a row of panels."""
PERCENT = (1, 10, 100)
HOVER = ": %{y:.3g} at %{x:.3g} % of training<extra></extra>"
LOG = ("NMSE", "L0", "amort_gap_mean")


def trajectory_figure(tables: Mapping[str, DataFrame], metric: str, protocol: str = "corrected") -> Figure:
    """One metric along training, a column a language model, a row a family of SAEs; initialisation stands apart.

    tables: checkpoints by language model, in the order of the columns. Thin: an SAE. Thick: means of the sparser and of
    the denser half of the SAEs of each variant.
    """
    from plotly.subplots import make_subplots

    parts = {model: table[table["protocol"] == protocol] for model, table in tables.items()}
    families = [f for f in FAMILIES if any(len(of_family(part, f)) for part in parts.values())]
    figure = make_subplots(
        len(families),
        len(parts),
        shared_xaxes=True,
        shared_yaxes="all",
        column_titles=[wrapped(model, 24) for model in parts],
        horizontal_spacing=0.17 if len(parts) > 1 else 0,
        vertical_spacing=0.06,
        x_title="% of training, 0: initialisation",
    )
    for col, (model, part) in enumerate(parts.items(), 1):
        for row, family in enumerate(families, 1):
            for line in _lines(model, of_family(part, family), family, metric):
                figure.add_scatter(**line, showlegend=False, row=row, col=col)
    for row, family in enumerate(families, 1):
        figure.update_yaxes(title_text=f"<b>{FAMILY_NAMES[family]}</b><br>{UNITS[metric]}", row=row, col=1)
    values = [value for part in parts.values() for value in part[metric].dropna()]
    if metric in LOG and min(values, default=0) > 0:
        figure.update_yaxes(type="log")
    figure.update_annotations(font_size=12)  # a phone is 390 pixels wide
    ticks = [min(_start(part) for part in parts.values()), *PERCENT]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=["0", *(f"{p:g}" for p in PERCENT)], tickangle=0)
    figure.update_layout(height=130 + ROW * len(families), margin={"b": TITLED, "r": 62})
    how = "as released" if protocol == "as_released" else "corrected"
    saes = " and ".join(f"{part.groupby(keys_of(part)).ngroups} ({model})" for model, part in parts.items())
    return caption(
        figure,
        f"{label(metric)} along training, {how}. Thin: an SAE. Thick: the mean of the sparser half of the SAEs of each "
        f"variant (solid) and of the denser half (dashed). The first point is random initialisation. SAEs: {saes}.",
        title=f"After a tenth of training {SHOWN[metric]} falls in {'; '.join(_falls(parts, metric, protocol))}",
    )


def _falls(parts: Mapping[str, DataFrame], metric: str, protocol: str) -> Iterator[str]:
    """How many SAEs of each family have less of a metric late in training, by language model."""
    for model, part in parts.items():
        counts = []
        for family in ("L1", "k"):
            rows = of_family(part, family)
            slopes = over_training(rows, metric, LATE, protocol).dropna()
            if len(slopes):
                counts.append(f"{int((slopes < 0).sum())} of {len(slopes)} {FAMILY_NAMES[family]}")
        yield f"{' and '.join(counts)} SAEs ({model})"


def _start(part: DataFrame) -> float:
    """Where initialisation is drawn, in percent of training: left of the first trained checkpoint."""
    return float(100 * part.loc[part["step"] > 0, "step"].min() / part["step"].max() / 3)


def _lines(model: str, part: DataFrame, family: str, metric: str) -> Iterator[dict[str, Any]]:
    """The lines of a panel: each SAE's, then the means of both halves with a name at their ends."""
    groups: dict[str, list[DataFrame]] = {}
    for variant, rows in part.groupby("variant"):
        order = sorted(rows["sparsity"].unique(), key=partial(sparser, str(variant)))
        lines = [rows[rows["sparsity"] == s] for s in order]
        half = len(lines) // 2
        for name, some in ((SPARSER, lines[:half]), (DENSER, lines[-half:])) if half else (("", lines),):
            groups.setdefault(name, []).extend(some)
        for line in lines if len(lines) > 1 else ():
            yield _line(line.set_index("step")[metric], {"color": CONTROL, "width": 1}) | {
                "mode": "lines",
                "opacity": 0.5,
                "hovertemplate": f"{model}<br>{names_of(line)[0]}{HOVER}",
            }
    means = {name: _mean(some, metric) for name, some in groups.items()}
    places = end_places({name: float(mean.iloc[-1]) for name, mean in means.items()})
    for name, mean in means.items():
        line = _line(mean, {"color": FAMILY_COLORS[family], "dash": DASHES[name], "width": 3})
        words = f"{model}<br>{name or 'the'} {FAMILY_NAMES[family]} SAEs (mean of {len(groups[name])})"
        yield line | {
            "mode": "lines+markers+text",
            "marker": {"size": 5},
            "text": [*[""] * (len(line["x"]) - 1), name],
            "textposition": places[name],
            "textfont": {"color": FAMILY_COLORS[family], "size": 12},
            "cliponaxis": False,
            "hovertemplate": f"{words}{HOVER}",
        }


def _mean(lines: list[DataFrame], metric: str) -> Any:
    import pandas as pd

    return pd.concat(lines).groupby("step")[metric].mean()


def _line(values: Any, line: dict[str, Any]) -> dict[str, Any]:
    """x in percent of training and y of one line, with a gap after initialisation."""
    last, first = values.index.max(), values.index[values.index > 0].min()
    x: list[float | None] = [float(f"{100 * (step or first / 3) / last:.4g}") for step in values.index]
    y: list[float | None] = [float(f"{v:.4g}") for v in values]
    if 0 in values.index:
        x, y = [x[0], None, *x[1:]], [y[0], None, *y[1:]]
    return {"x": x, "y": y, "line": line}


def frontier_figure(tables: Mapping[str, DataFrame], metric: str = "FVE") -> Figure:
    """A metric of the trained SAEs against the L0 they have, a line a variant, a column a language model."""
    from plotly.subplots import make_subplots

    panels = {"subplot_titles": [wrapped(model, 24) for model in tables], "shared_yaxes": True}
    figure = make_subplots(
        1, len(tables), horizontal_spacing=0.05, x_title="L0 of the encoder, held-out tokens", **panels
    )
    for col, (model, table) in enumerate(tables.items(), 1):
        rows = finals(table).sort_values("L0")
        for variant in (v for v in TRAINED if v in set(rows["variant"])):
            line, marker = rows[rows["variant"] == variant], variant_marker(variant)
            style = {"line": {"color": marker["color"], "width": 1}, "marker": marker, "mode": "lines+markers"}
            hover = [f"{model}, {name}" for name in names_of(line)]
            figure.add_scatter(
                x=line["L0"].round(2), y=line[metric].round(4), hovertext=hover, name=variant, **style, row=1, col=col
            )
    legend_once(figure)
    figure.update_xaxes(type="log", tickangle=0)
    metric_axis(figure, metric, row=1, col=1)
    figure.update_layout(margin_b=TITLED)
    saes = " and ".join(f"{finals(table).groupby('variant').size().sum()} ({model})" for model, table in tables.items())
    return caption(figure, f"{label(metric)} against L0 at the end of training: a line a variant. SAEs: {saes}.")


def gap_figure(tables: Mapping[str, DataFrame]) -> Figure:
    """Rank correlation of each metric with the gap, a marker a trajectory, a column a language model (claim C4)."""
    from plotly.subplots import make_subplots

    metrics = ["NMSE", "dead_rate", "dense@0.1", "absorption", "dF1"]
    panels = {"subplot_titles": [wrapped(model, 24) for model in tables], "shared_yaxes": True}
    title = "rank correlation with the gap<br>along training"
    figure = make_subplots(1, len(tables), horizontal_spacing=0.05, x_title=title, **panels)
    figure.update_annotations(font_size=12)  # a phone is 390 pixels wide
    with_gap = []
    for col, (model, table) in enumerate(tables.items(), 1):
        points = gap_correlations(table).dropna(subset=["rho"])
        points = points[points["metric"].isin(metrics)]
        pathologies = points[points["metric"] != "NMSE"]
        with_gap.append(f"{int((pathologies['rho'] > 0).sum())} of {len(pathologies)} on {model}")
        variants = [v for v in TRAINED if v in set(points["variant"])]
        for i, variant in enumerate(variants):
            part = points[points["variant"] == variant]
            shift = 0.12 * ((len(variants) - 1) / 2 - i)
            figure.add_scatter(
                x=part["rho"].round(3),
                y=[len(metrics) - 1 - metrics.index(m) + shift for m in part["metric"]],
                mode="markers",
                name=variant,
                marker={**variant_marker(variant), "size": 7},
                hovertext=[f"{model}, {name}, {n} checkpoints" for name, n in zip(names_of(part), part["points"])],
                row=1,
                col=col,
            )
    legend_once(figure)
    figure.add_vline(x=0, line_width=1)
    names = [wrapped(SHOWN[m].removeprefix("the "), 14) for m in reversed(metrics)]
    figure.update_yaxes(tickvals=list(range(len(metrics))), ticktext=names, range=[-0.5, len(metrics) - 0.5])
    figure.update_xaxes(range=[-1.08, 1.08], tickvals=[-1, 0, 1], tickangle=0)
    figure.update_layout(margin_b=TITLED + 14)
    return caption(
        figure,
        "Does a metric move with the certified gap along training? A marker a trajectory: +1 falls and rises with the "
        "gap, −1 against it. With so few checkpoints one trajectory proves nothing; agreement between them would.",
        title=f"Trajectories on which a pathology moves with the gap: {', '.join(with_gap)}",
    )
