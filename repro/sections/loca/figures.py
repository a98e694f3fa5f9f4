"""Figures of LocA-SAE: each metric by form, its differences from the other forms, and angular variance."""

from __future__ import annotations

from repro.base.theme import FAMILY_COLORS, caption, interval
from repro.sections.figures import blank, label, name_of
from repro.sections.loca.run import FORM_NAMES
from repro.sections.loca.words import effects, effects_table
from repro.sections.types import DataFrame, Figure, Series


def metric_figure(table: DataFrame, metric: str) -> Figure:
    """One metric of every form, corrected protocol, a point a seed."""
    part = table[table["protocol"] == "corrected"]
    figure = blank()
    for i, (k, points) in enumerate(part.groupby("k")):
        figure.add_scatter(
            x=points[metric],
            y=points["form"].map(FORM_NAMES),
            mode="markers",
            name=f"k = {k:g}",
            marker={"color": FAMILY_COLORS["k"], "symbol": ("circle", "square", "diamond")[i % 3], "size": 9},
            hovertext=[f"seed {s}" for s in points["seed"]],
        )
    figure.update_layout(xaxis_title=label(metric), showlegend=part["k"].nunique() > 1)
    figure.update_yaxes(autorange="reversed", title=None)
    text = (
        f"{label(metric)}, a point a seed. All forms but the first go on from the same Top-K SAE of their "
        "seed; those that are trained see the same batches."
    )
    return caption(figure, text, title=f"{name_of(metric)}, mean: {_beside(part.groupby('form')[metric].mean())}")


def _beside(mean: Series) -> str:
    """LocA's mean beside those of the forms that it is compared with."""
    return ", ".join(
        f"{FORM_NAMES[form].strip('… ')} {mean[form]:.3g}" for form in ("loca", "topk", "random", "frequency")
    )


def effect_figure(table: DataFrame, model: str = "") -> Figure:
    """LocA minus each other form, with intervals over seeds, a panel a metric."""
    from plotly.subplots import make_subplots

    long, plain = effects(table), effects_table(table).loc[FORM_NAMES["topk"]]
    long = long[long["against"] != FORM_NAMES["as_released"]]
    shown = ("NMSE", "dead_rate", "dF1", "absorption")
    figure = make_subplots(2, 2, subplot_titles=[f"Δ {m}" for m in shown], shared_yaxes=True, horizontal_spacing=0.04)
    for i, metric in enumerate(shown):
        part = long[long["metric"] == metric]
        bars = interval(part["effect"], part["low"], part["high"]) if part["low"].notna().any() else None
        where = {"row": i // 2 + 1, "col": i % 2 + 1}
        style = {"mode": "markers", "marker": {"color": FAMILY_COLORS["k"], "size": 9}, "showlegend": False}
        figure.add_scatter(x=part["effect"], y=part["against"], error_x=bars, **style, **where)
        figure.add_vline(x=0, line_dash="dash", line_width=1, **where)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=620)
    return caption(
        figure,
        f"{model and f'{model}. '}LocA-SAE (corrected) minus each other form, with 95 % intervals over seeds: left of "
        "the dashed line, LocA is lower. Against random groups, the difference is what angular variance is worth.",
        title=f"{model and f'{model}: '}LocA − Top-K trained on for as long: NMSE {plain['NMSE']}, share of dead "
        f"latents {plain['dead_rate']}, {table['seed'].nunique()} seeds",
    )


def variance_figure(table: DataFrame) -> Figure:
    """Angular variance against firing rate, by the released rule and by the corrected one."""
    from plotly.subplots import make_subplots

    table = table[table["k"] == table["k"].min()]
    figure = make_subplots(
        1, 2, subplot_titles=("released rule", "corrected"), shared_yaxes=True, horizontal_spacing=0.05
    )
    floor = table.loc[table["firing_rate"] > 0, "firing_rate"].min() / 3
    for column, name in enumerate(("AV_released", "AV_corrected"), 1):
        figure.add_scatter(
            x=[float(f"{v:.4g}") for v in table["firing_rate"].clip(lower=floor)],
            y=[round(v, 4) if v == v else None for v in table[name]],
            mode="markers",
            marker={"size": 4, "color": FAMILY_COLORS["k"], "opacity": 0.5},
            showlegend=False,
            hovertemplate="latent %{pointNumber}: rate %{x}, variance %{y}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_xaxes(type="log", title_text="firing rate (never fired: left edge)")
    figure.update_yaxes(title_text="angular variance", col=1)
    return caption(
        figure,
        "Angular variance of each latent against how often it fires. The released rule gives latents that never fire "
        "the highest value of all, 1, so they head the group with the largest k; the corrected one leaves them out.",
        title=f"The released rule gives {int((table['firing_rate'] == 0).sum())} of {len(table):,} latents the highest "
        "variance because they never fired",
    )
