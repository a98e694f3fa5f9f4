"""§4.3: metrics of the encoder's codes along training, and the gap between encoder and optimum."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from repro.evaluate import evaluate_checkpoints
from repro.sections.comparison.run import LABELS
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table
from repro.training.recipe import SPARSITY_NAME, TRAINED

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

PAPER_VARIANTS = ("standard", "topk")  # the paper's §4.3 follows these two


def run(scale: Scale, name: str = "dynamics", variants: tuple[str, ...] = PAPER_VARIANTS) -> pd.DataFrame:
    """Every checkpoint of the trajectories of these variants, amortized codes, both protocols; written as `name`.

    corrected: one lambda a trajectory, the one that matches the final encoder's L0, so that gaps along it belong to one
    objective. as_released, on the sparsest Standard and Top-K trajectory: a lambda of its own at every checkpoint, k
    from the checkpoint.
    """
    started = time.perf_counter()
    ready = prepare(scale)
    rows: list[dict[str, Any]] = []
    released = options(scale, modes=("amortized",), protocols=("as_released",), batch_evaluation=True)
    corrected = options(scale, modes=("amortized",), protocols=("corrected",), refit=False)
    wanted = [c for c in ready.checkpoints if c["variant"] in variants]
    followed = [c for c in wanted if c["variant"] in PAPER_VARIANTS]
    sparsest = {v: min(sparser(v, c["sparsity"]) for c in followed if c["variant"] == v) for v in PAPER_VARIANTS}
    once = [c for c in followed if sparser(c["variant"], c["sparsity"]) == sparsest[c["variant"]]]
    rows += evaluate_checkpoints(once, ready.data, released, ready.folder / "rows", ready.device)
    for final in (c for c in wanted if c["final"]):
        trajectory = [c for c in wanted if c["trainer"] == final["trainer"] and c["variant"] == final["variant"]]
        matched = evaluate_checkpoints([final], ready.data, corrected, ready.folder / "rows", ready.device)
        fixed = dataclasses.replace(corrected, lam=matched[0].get("lam"))
        rows += evaluate_checkpoints(trajectory, ready.data, fixed, ready.folder / "rows", ready.device)
    return save_table(name, scale, rows, time.perf_counter() - started, key=ready.data.key)


def sparser(variant: str, sparsity: float) -> float:
    """A number that falls as the SAE gets sparser: k, or minus the L1 coefficient."""
    return -sparsity if SPARSITY_NAME[variant] == "l1_penalty" else sparsity


def trajectory_figure(table: pd.DataFrame, metric: str, protocol: str = "corrected") -> Figure:
    """One metric along training (log axis, step 0 drawn at half the first step), a line a sparsity."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from repro.base.theme import VARIANT_COLORS, caption, interval

    part = table[table["protocol"] == protocol]
    variants = [v for v in TRAINED if v in set(part["variant"])]
    figure = make_subplots(1, len(variants), subplot_titles=variants, shared_yaxes=True, horizontal_spacing=0.04)
    last = part["step"].max()
    first = part.loc[part["step"] > 0, "step"].min() if (part["step"] > 0).any() else 1
    for column, variant in enumerate(variants, 1):
        lines = part[part["variant"] == variant].sort_values("step").groupby("sparsity")
        for i, (sparsity, line) in enumerate(lines):
            trace: dict[str, Any] = {
                "x": line["step"].where(line["step"] > 0, first / 2) / last,
                "y": line[metric],
                "mode": "lines+markers",
                "name": f"{variant} {sparsity:g}",
                "line": {"color": VARIANT_COLORS[variant], "dash": ("solid", "dash", "dot", "dashdot")[i % 4]},
                "hovertext": [f"step {int(s)}, L0 {l:.4g}" for s, l in zip(line["step"], line["L0"])],
            }
            if f"{metric}_low" in line and line[f"{metric}_low"].notna().any():
                trace["error_y"] = interval(line[metric], line[f"{metric}_low"], line[f"{metric}_high"])
            figure.add_trace(go.Scatter(**trace), 1, column)
    figure.update_xaxes(type="log", dtick=1, title_text="share of training", tickformat="~p")
    figure.update_yaxes(title_text=LABELS.get(metric, metric), col=1)
    if metric in ("NMSE", "L0", "amort_gap_mean") and (part[metric] > 0).all():
        figure.update_yaxes(type="log")
    name = "as released" if protocol == "as_released" else "corrected"
    return caption(
        figure, f"{LABELS.get(metric, metric)} along training, {name}. The first point is random initialisation."
    )


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """First and last checkpoint of every trajectory, corrected."""
    part = table[table["protocol"] == "corrected"].sort_values("step")
    ends = part.groupby(["variant", "sparsity"]).nth([0, -1])
    columns = ["variant", "sparsity", "step", "NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "absorption", "dF1"]
    return ends.sort_values(["variant", "sparsity", "step"])[[*columns, "amort_gap_relative"]].round(4)


def gap_correlations(table: pd.DataFrame, protocol: str = "corrected") -> pd.DataFrame:
    """Spearman correlation, over the trained checkpoints of each trajectory, of the gap with each metric (claim C4).

    The gap is relative, (J − J*) / J, where the table has it; step 0 is left out, since nothing is trained there. NaN
    where a metric does not change along a trajectory.
    """
    import pandas as pd

    rows = []
    gap = "amort_gap_relative" if protocol == "corrected" else "amort_gap_mean"
    part = table[(table["protocol"] == protocol) & (table["step"] > 0)]
    for (variant, sparsity), line in part.groupby(["variant", "sparsity"], sort=False):
        for metric in ("step", "NMSE", "dead_rate", "dense@0.1", "absorption", "dF1"):
            if metric not in line:
                continue
            pair = line[[gap, metric]].dropna()
            defined = len(pair) > 2 and pair.nunique().min() > 1
            rho = pair[gap].corr(pair[metric], method="spearman") if defined else float("nan")
            rows.append({"variant": variant, "sparsity": sparsity, "metric": metric, "rho": rho, "points": len(pair)})
    return pd.DataFrame(rows)


def gap_against_pathology(table: pd.DataFrame, protocol: str = "corrected") -> pd.DataFrame:
    """`gap_correlations` as a table: a row a trajectory, a column a metric."""
    found = gap_correlations(table, protocol)
    return found.pivot_table(index=["variant", "sparsity"], columns="metric", values="rho").round(2)


def figures(table: pd.DataFrame) -> dict[str, Figure]:
    """All figures of the section by name; `released_*` are those of the released protocol."""
    out = {}
    for metric in ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "amort_gap_relative"):
        out[metric] = trajectory_figure(table, metric)
    for metric in ("NMSE", "dead_rate", "dense@0.1", "amort_gap_mean"):
        out[f"released_{metric}"] = trajectory_figure(table, metric, "as_released")
    return out
