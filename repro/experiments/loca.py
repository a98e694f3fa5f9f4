"""LocA-SAE: angular variance, its groups, and what a top-k of its own in every group does to a trained Top-K."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from repro.config import Scale
from repro.evaluate import evaluate_sae
from repro.experiments.setup import Prepared, options, prepare
from repro.experiments.tables import save_table
from repro.training.loca import GROUP_KS, angular_variance, group, regroup

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from repro.sae import SAE

BATCHES, BATCH = 200, 2048  # the paper measures angular variance on at most 200 batches


def group_ks(k: int, n_groups: int = len(GROUP_KS)) -> tuple[int, ...]:
    """A total of k spread over the groups as the released (6, 5, 4, 3, 3, 2, 2, 1), at least 1 a group.

    Largest remainders, so that the sum is exactly k (the release adds 6 latents on the way from 20 to 26).
    """
    share = [g * k / sum(GROUP_KS) for g in GROUP_KS[:n_groups]]
    out = [max(1, int(s)) for s in share]
    for i in sorted(range(n_groups), key=lambda i: int(share[i]) - share[i]):
        if sum(out) < k:
            out[i] += 1
    return tuple(out)


def latents(scale: Scale) -> pd.DataFrame:
    """Angular variance of every latent of the scale's Top-K SAEs by both rules, with its firing count and group."""
    started = time.perf_counter()
    ready = prepare(scale)
    rows: list[dict[str, Any]] = []
    for entry, sae in _top_k(ready):
        blocks = [b.to(ready.device) for b in ready.rows.blocks(BATCH)][:BATCHES]
        released, count = angular_variance(sae, blocks, "as_released")
        corrected, _ = angular_variance(sae, blocks, "corrected")
        member = torch.empty(sae.config.m, dtype=torch.long)
        for g, members in enumerate(group(corrected.cpu())):
            member[members] = g
        tokens = sum(len(b) for b in blocks)
        for j in range(sae.config.m):
            rows.append(
                {
                    "k": entry["sparsity"],
                    "latent": j,
                    "AV_released": float(released[j]),
                    "AV_corrected": float(corrected[j]),
                    "firing_rate": float(count[j]) / tokens,
                    "group": int(member[j]),
                }
            )
    return save_table("loca_latents", scale, rows, time.perf_counter() - started)


def run(scale: Scale) -> pd.DataFrame:
    """Amortized metrics, corrected protocol, of each Top-K SAE, of its grouped form by angular variance, by firing
    frequency and by chance, all at the same total k: what the selection rule changes before any fine-tuning.
    """
    started = time.perf_counter()
    ready = prepare(scale)
    rows: list[dict[str, Any]] = []
    settings = options(scale, modes=("amortized",), protocols=("corrected",), gap=False)
    for entry, sae in _top_k(ready):
        blocks = [b.to(ready.device) for b in ready.rows.blocks(BATCH)][:BATCHES]
        variance, count = angular_variance(sae, blocks)
        by_chance = torch.randperm(sae.config.m, generator=torch.Generator().manual_seed(scale.seed)).double()
        ks = group_ks(int(entry["sparsity"]))
        forms = {
            "top-k": sae,
            "angular variance": regroup(sae, group(variance), ks),
            "firing frequency": regroup(sae, group(count), ks),
            "random": regroup(sae, group(by_chance), ks),
        }
        for name, form in forms.items():
            for row in evaluate_sae(form, ready.data, settings):
                rows.append({"groups": name, "k": entry["sparsity"], **row})
    return save_table("loca", scale, rows, time.perf_counter() - started)


def _top_k(ready: Prepared) -> list[tuple[dict[str, Any], SAE]]:
    from repro.checkpoints import load_sae

    return [(e, load_sae(e["path"]).to(ready.device)) for e in ready.finals("topk")]


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Metrics by k and selection rule."""
    columns = ["L0", "NMSE", "FVE", "dead_rate", "dense@0.1", "dF1", "absorption", "absorption_null"]
    return table.set_index(["k", "groups"])[columns].round(4)


def variance_figure(table: pd.DataFrame) -> Figure:
    """Angular variance against firing rate, by the released rule and by the corrected one."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from repro.report.theme import BLUE, VERMILION, caption

    table = table[table["k"] == table["k"].min()]
    figure = make_subplots(
        1, 2, subplot_titles=("released rule", "corrected"), shared_yaxes=True, horizontal_spacing=0.05
    )
    floor = table.loc[table["firing_rate"] > 0, "firing_rate"].min() / 3
    for column, (name, color) in enumerate((("AV_released", VERMILION), ("AV_corrected", BLUE)), 1):
        figure.add_trace(
            go.Scattergl(
                x=table["firing_rate"].clip(lower=floor),
                y=table[name],
                mode="markers",
                marker={"size": 4, "color": color, "opacity": 0.5},
                showlegend=False,
                hovertext=[f"latent {j}" for j in table["latent"]],
            ),
            1,
            column,
        )
    figure.update_xaxes(type="log", title_text="firing rate (never fired: left edge)")
    figure.update_yaxes(title_text="angular variance", col=1)
    return caption(
        figure,
        "Angular variance of each latent against how often it fires. The released rule gives latents that never fire "
        "the highest value of all, 1, so they head the group with the largest k.",
    )


def group_figure(table: pd.DataFrame, metric: str) -> Figure:
    """One metric by grouping rule, at each k."""
    import plotly.graph_objects as go

    from repro.experiments.comparison import LABELS
    from repro.report.theme import PALETTE, caption, interval

    figure = go.Figure()
    for i, (k, part) in enumerate(table.groupby("k")):
        bars = (
            interval(part[metric], part[f"{metric}_low"], part[f"{metric}_high"]) if f"{metric}_low" in part else None
        )
        figure.add_trace(
            go.Bar(
                x=part["groups"],
                y=part[metric],
                name=f"k = {k:g}",
                marker_color=PALETTE[i % len(PALETTE)],
                error_y=bars,
            )
        )
    figure.update_layout(barmode="group", xaxis_title="selection rule", yaxis_title=LABELS.get(metric, metric))
    return caption(
        figure, f"{LABELS.get(metric, metric)} of one trained Top-K SAE under four selection rules at the same k."
    )
