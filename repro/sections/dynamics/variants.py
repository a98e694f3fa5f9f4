"""§4.3 with all six variants: every sparsity along training, what came of it, and what moves with the gap."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from repro.base.errors import BadInput
from repro.sections.comparison.run import LABELS
from repro.sections.dynamics.run import gap_correlations, run, sparser
from repro.sections.scales import TRAJECTORIES
from repro.sections.tables import need_table
from repro.training.recipe import SPARSITY_NAME, TRAINED

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

METRICS = ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "amort_gap_relative")
LOGARITHMIC = ("NMSE", "L0")


def table(scale: str, recompute: bool = False) -> pd.DataFrame:
    """All six variants along training, from `config.TRAJECTORIES`: the stored table, or trained and evaluated anew."""
    if not recompute:
        return need_table("trajectories", scale)
    if scale not in TRAJECTORIES:
        raise BadInput(f"No trajectories are set up for scale '{scale}'; there are {', '.join(TRAJECTORIES)}.")
    return run(TRAJECTORIES[scale], "trajectories", TRAINED)


def trajectory_grid(table: pd.DataFrame, metric: str) -> Figure:
    """One metric along training (log axis, step 0 at half the first step), a panel a variant, a line a sparsity."""
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale
    from plotly.subplots import make_subplots

    from repro.base.theme import caption

    part = table[table["protocol"] == "corrected"]
    variants = [v for v in TRAINED if v in set(part["variant"])]
    columns = min(3, len(variants))
    rows = math.ceil(len(variants) / columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[v.removesuffix("_batch_topk") if v.startswith("matryoshka") else v for v in variants],
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.12,
    )
    last, first = part["step"].max(), part.loc[part["step"] > 0, "step"].min()
    for i, variant in enumerate(variants):
        lines = sorted(part[part["variant"] == variant].groupby("sparsity"), key=lambda item: sparser(variant, item[0]))
        shades = sample_colorscale("Cividis", [0.1 + 0.75 * j / max(1, len(lines) - 1) for j in range(len(lines))])
        for shade, (sparsity, line) in zip(shades, lines, strict=True):
            line = line.sort_values("step")
            trace: dict[str, Any] = {
                "x": line["step"].where(line["step"] > 0, first / 2) / last,
                "y": [float(f"{y:.4g}") for y in line[metric]],
                "mode": "lines+markers",
                "marker": {"size": 5},
                "name": f"{variant} {sparsity:g}",
                "line": {"color": shade},
                "hovertext": [f"step {int(s)}, L0 {l:.3g}" for s, l in zip(line["step"], line["L0"])],
                "showlegend": False,
            }
            figure.add_trace(go.Scatter(**trace), i // columns + 1, i % columns + 1)
    figure.update_xaxes(type="log", dtick=1, tickformat="~p")
    figure.update_xaxes(title_text="share of training", row=rows, col=(columns + 1) // 2)
    figure.update_yaxes(title_text="<br>".join(textwrap.wrap(LABELS.get(metric, metric), 24)), col=1)
    figure.update_annotations(font_size=13)  # a phone is 390 pixels wide
    if metric in LOGARITHMIC and (part[metric] > 0).all():
        figure.update_yaxes(type="log")
    figure.update_layout(height=260 * rows + 60)
    return caption(
        figure,
        f"{LABELS.get(metric, metric)} along training, corrected, one panel a variant; dark lines are the sparsest "
        "SAEs, light ones the densest. The first point is random initialisation.",
    )


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The trained SAEs, corrected."""
    part = table[table["protocol"] == "corrected"]
    return part[part["step"] == part.groupby(["variant", "sparsity"])["step"].transform("max")]


def frontier(table: pd.DataFrame, metric: str = "FVE") -> Figure:
    """A metric of the trained SAEs against the L0 they have, a line a variant."""
    import plotly.graph_objects as go

    from repro.base.theme import VARIANT_COLORS, caption

    figure = go.Figure()
    for variant, line in finals(table).sort_values("L0").groupby("variant"):
        style = {"line": {"color": VARIANT_COLORS[variant]}, "mode": "lines+markers", "name": variant}
        figure.add_trace(go.Scatter(x=line["L0"].round(2), y=line[metric].round(4), **style))
    figure.update_xaxes(type="log", title_text="L0 of the encoder, held-out tokens")
    figure.update_yaxes(title_text=LABELS.get(metric, metric))
    return caption(figure, f"{LABELS.get(metric, metric)} against L0 at the end of training: a line a variant.")


def as_configured(table: pd.DataFrame) -> pd.DataFrame:
    """What was asked of each SAE and what it is: L0, FVE, dead and dense latents at the end of training."""
    part = finals(table).assign(asked=lambda t: [SPARSITY_NAME[v] for v in t["variant"]])
    order = {v: i for i, v in enumerate(TRAINED)}
    part = part.sort_values(["variant", "L0"], key=lambda c: c.map(order) if c.name == "variant" else c)
    columns = ["asked", "sparsity", "L0", "FVE", "dead_rate", "dense@0.1", "amort_gap_relative"]
    return part.set_index("variant")[columns].round(4)


def what_follows_the_gap(table: pd.DataFrame) -> Figure:
    """Rank correlation of each metric with the gap, a point a trajectory (claim C4)."""
    import plotly.graph_objects as go

    from repro.base.theme import VARIANT_COLORS, caption

    found = gap_correlations(table).dropna(subset=["rho"])
    names = ["NMSE", "dead_rate", "dense@0.1", "absorption", "dF1"]
    figure = go.Figure()
    variants = [v for v in TRAINED if v in set(found["variant"])]
    for i, variant in enumerate(variants):
        part = found[(found["variant"] == variant) & found["metric"].isin(names)]
        shift = 0.12 * (i - (len(variants) - 1) / 2)
        figure.add_trace(
            go.Scatter(
                x=[names.index(m) + shift for m in part["metric"]],
                y=part["rho"].round(3),
                mode="markers",
                name=variant,
                marker={"color": VARIANT_COLORS[variant]},
                hovertext=[f"{variant} {s:g}" for s in part["sparsity"]],
            )
        )
    ticks = [LABELS.get(n, n) for n in names]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=ticks)
    figure.update_yaxes(title_text="Spearman ρ with the gap", range=[-1.08, 1.08])
    figure.add_hline(y=0, line_width=1)
    return caption(
        figure,
        "Does a metric move with the certified gap along training? A point a trajectory: +1 falls and rises with the "
        "gap, −1 against it. A metric that follows the gap would have its points near +1 for every variant.",
    )
