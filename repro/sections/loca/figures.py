"""§6, read from the tables: what LocA changes against every other form, in tables, sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.sections.loca.run import LABELS

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

METRICS = ("NMSE", "dead_rate", "dense@0.1", "dF1", "absorption")


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of each metric, by protocol and form."""
    columns = ["L0", "NMSE", "FVE", *METRICS[1:], "absorption_null", "extra_steps", "encode_us_per_token"]
    out = table.groupby(["protocol", "k", "form"], sort=False)[columns].mean().round(4)
    return out.rename(index=LABELS, level="form")


def differences(table: pd.DataFrame, form: str = "loca", against: str = "topk", metric: str = "NMSE") -> pd.Series:
    """metric(form) - metric(against), corrected protocol, one value a seed (mean over k), indexed by seed."""
    part = table[table["protocol"] == "corrected"]
    wide = part.pivot_table(index=["seed", "k"], columns="form", values=metric)
    return (wide[form] - wide[against]).groupby("seed").mean()


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """What LocA changes against every other form: mean over seeds with a 95 % t interval, long format."""
    import pandas as pd

    from repro.sections.ledger import Effect

    rows = []
    for against in [f for f in LABELS if f in set(table["form"]) and f != "loca"]:
        for metric in METRICS:
            effect = Effect.of(differences(table, "loca", against, metric).to_numpy())
            rows.append(
                {
                    "against": LABELS[against],
                    "metric": metric,
                    "effect": effect.value,
                    "low": effect.low,
                    "high": effect.high,
                    "seeds": effect.n,
                }
            )
    return pd.DataFrame(rows)


def effects_table(table: pd.DataFrame) -> pd.DataFrame:
    """`effects` as a table to read: a row a form, a column a metric, effect [interval]."""
    long = effects(table)
    long["text"] = [
        f"{v:+.3f}" + (f" [{a:+.3f}, {b:+.3f}]" if a == a else "")
        for v, a, b in zip(long["effect"], long["low"], long["high"])
    ]
    return long.pivot(index="against", columns="metric", values="text").loc[long["against"].unique(), list(METRICS)]


def findings(table: pd.DataFrame) -> str:
    """The ablations in sentences, every number from the table."""
    mean = table[table["protocol"] == "corrected"].groupby("form")[["L0", "FVE", *METRICS]].mean()
    released = table[table["protocol"] == "as_released"][["NMSE", "L0", "dense@0.1"]].mean()
    at = lambda form, metric: float(mean.loc[form, metric])  # noqa: E731
    stopped = int(table.loc[table["form"] == "as_released", "extra_steps"].max())
    m, seeds = int(table["m"].iloc[0]), table["seed"].nunique()
    loca, plain, chance = ({m: at(form, m) for m in mean.columns} for form in ("loca", "topk", "random"))
    return (
        f"**As released**, each training phase stops after {stopped} step, because a reconstruction of zero already "
        f"meets its target: NMSE {at('as_released', 'NMSE'):.3g} with its true group top-k; converted and read as a "
        f"plain ReLU, {released['NMSE']:.3g} at {released['L0']:.0f} of {m:,} latents a token. **Corrected** (mean "
        f"over {seeds} seed{'s' if seeds > 1 else ''}), LocA-SAE has NMSE {loca['NMSE']:.4f} at L0 {loca['L0']:.1f}; "
        f"the same Top-K SAE trained on for as long has {plain['NMSE']:.4f} at L0 {plain['L0']:.1f}. Dead latents "
        f"{loca['dead_rate']:.1%} against {plain['dead_rate']:.1%}, absorption {loca['absorption']:.3f} against "
        f"{plain['absorption']:.3f}, ΔF1 {loca['dF1']:+.3f} against {plain['dF1']:+.3f}. With random groups: NMSE "
        f"{chance['NMSE']:.4f}, dead {chance['dead_rate']:.1%}, absorption {chance['absorption']:.3f}, ΔF1 "
        f"{chance['dF1']:+.3f}."
    )


def paper_rows() -> pd.DataFrame:
    """The paper's LocA rows beside its Top-K and BatchTopK encoders (data/paper.csv)."""
    from repro.sections.comparison.run import paper_numbers

    table = paper_numbers()
    return table[table["id"].isin(["S1", "S3", "S5", "S9"])].set_index("id")


def metric_figure(table: pd.DataFrame, metric: str) -> Figure:
    """One metric of every form, corrected protocol, a point a seed."""
    import plotly.graph_objects as go

    from repro.base.theme import PALETTE, caption
    from repro.sections.comparison.run import LABELS as AXES

    part = table[table["protocol"] == "corrected"]
    figure = go.Figure()
    for i, (k, points) in enumerate(part.groupby("k")):
        figure.add_trace(
            go.Scatter(
                x=points[metric],
                y=points["form"].map(LABELS),
                mode="markers",
                name=f"k = {k:g}",
                marker={"color": PALETTE[i % len(PALETTE)], "size": 9, "opacity": 0.7},
                hovertext=[f"seed {s}" for s in points["seed"]],
            )
        )
    figure.update_layout(xaxis_title=AXES.get(metric, metric), showlegend=part["k"].nunique() > 1)
    figure.update_yaxes(autorange="reversed", title=None)
    text = (
        f"{AXES.get(metric, metric)}, a point a seed. All forms but the first go on from the same Top-K SAE of their "
        "seed; those that are trained see the same batches."
    )
    return caption(figure, text)


def effect_figure(table: pd.DataFrame) -> Figure:
    """LocA minus each other form, with intervals over seeds, a panel a metric."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from repro.base.theme import BLUE, caption, interval

    long = effects(table)
    long = long[long["against"] != LABELS["as_released"]]
    shown = ("NMSE", "dead_rate", "dF1", "absorption")
    figure = make_subplots(2, 2, subplot_titles=[f"Δ {m}" for m in shown], shared_yaxes=True, horizontal_spacing=0.04)
    for i, metric in enumerate(shown):
        part = long[long["metric"] == metric]
        bars = interval(part["effect"], part["low"], part["high"]) if part["low"].notna().any() else None
        where = (i // 2 + 1, i % 2 + 1)
        figure.add_trace(
            go.Scatter(
                x=part["effect"],
                y=part["against"],
                mode="markers",
                marker={"color": BLUE, "size": 9},
                error_x=bars,
                showlegend=False,
            ),
            *where,
        )
        figure.add_vline(x=0, line_dash="dash", line_width=1, row=where[0], col=where[1])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=620)
    return caption(
        figure,
        "LocA-SAE (corrected) minus each other form, with 95 % intervals over seeds: left of the dashed line, LocA is "
        "lower. Against random groups, the difference is what angular variance is worth.",
    )


def variance_figure(table: pd.DataFrame) -> Figure:
    """Angular variance against firing rate, by the released rule and by the corrected one."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from repro.base.theme import BLUE, VERMILION, caption

    table = table[table["k"] == table["k"].min()]
    figure = make_subplots(
        1, 2, subplot_titles=("released rule", "corrected"), shared_yaxes=True, horizontal_spacing=0.05
    )
    floor = table.loc[table["firing_rate"] > 0, "firing_rate"].min() / 3
    for column, (name, color) in enumerate((("AV_released", VERMILION), ("AV_corrected", BLUE)), 1):
        figure.add_trace(
            go.Scatter(
                x=[float(f"{v:.4g}") for v in table["firing_rate"].clip(lower=floor)],
                y=[round(v, 4) if v == v else None for v in table[name]],
                mode="markers",
                marker={"size": 4, "color": color, "opacity": 0.5},
                showlegend=False,
                hovertemplate="latent %{pointNumber}: rate %{x}, variance %{y}<extra></extra>",
            ),
            1,
            column,
        )
    figure.update_xaxes(type="log", title_text="firing rate (never fired: left edge)")
    figure.update_yaxes(title_text="angular variance", col=1)
    return caption(
        figure,
        "Angular variance of each latent against how often it fires. The released rule gives latents that never fire "
        "the highest value of all, 1, so they head the group with the largest k; the corrected one leaves them out.",
    )
