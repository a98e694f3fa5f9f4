"""The semi sweep: how many steps from the encoder's code does it take, at what cost, and what do they change?"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from repro.base.files import digest, write_atomically
from repro.evaluate import code_key
from repro.evaluate.steps import sweep
from repro.sections.comparison.run import LABELS
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def run(scale: Scale) -> pd.DataFrame:
    """Both protocols on every BatchTopK SAE of the scale, at every step count; corrected ends with the optimum.

    Writes the tables `sweep` (ISTA and the optimum) and `sweep_fista` (FISTA, corrected); returns the first.
    """
    from repro.checkpoints import load_sae

    started = time.perf_counter()
    ready, o = prepare(scale), options(scale)
    rows: list[dict[str, Any]] = []
    for entry in ready.finals("batch_topk"):
        sae = load_sae(entry["path"]).to(ready.device)
        key = digest("sweep with costs", code_key(), sae.source.sha256, ready.data.key, scale.sweep_steps, o)
        done = ready.folder / "rows" / f"{key}.json"
        if not done.is_file():
            new = [
                {**row, "m": sae.config.m, "d": sae.config.d}
                for row in sweep(sae, ready.data, scale.sweep_steps, o, momentum=True)
            ]
            write_atomically(done, lambda path, new=new: path.write_text(json.dumps(new)))
        rows += [
            {"variant": entry["variant"], "sparsity": entry["sparsity"], **r} for r in json.loads(done.read_text())
        ]
    seconds = time.perf_counter() - started
    if momentum := [r for r in rows if r.get("solver") == "fista"]:
        save_table("sweep_fista", scale, momentum, seconds, key=ready.data.key)
    return save_table("sweep", scale, [r for r in rows if r.get("solver") != "fista"], seconds, key=ready.data.key)


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Metrics by protocol and number of steps, mean over the SAEs; −1 steps is the certified optimum."""
    columns = ["cost", "NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "absorption_null"]
    return table.groupby(["protocol", "steps"])[columns].mean().round(4)


def step_figure(table: pd.DataFrame, metric: str) -> Figure:
    """One metric against the number of ISTA steps, released (dotted) and corrected (solid); dashes = the optimum."""
    import plotly.graph_objects as go

    from repro.base.theme import PALETTE, caption, interval

    figure = go.Figure()
    for i, (sparsity, part) in enumerate(table.groupby("sparsity")):
        color = PALETTE[i % len(PALETTE)]
        for protocol, dash in (("as_released", "dot"), ("corrected", "solid")):
            line = part[(part["protocol"] == protocol) & (part["steps"] >= 0)].sort_values("steps")
            trace: dict[str, Any] = {
                "x": line["steps"],
                "y": line[metric],
                "mode": "lines+markers",
                "name": f"k = {sparsity:g}, {'released' if protocol == 'as_released' else protocol}",
                "line": {"color": color, "dash": dash},
                "marker": {"symbol": "circle" if protocol == "corrected" else "circle-open"},
                "hovertext": [f"L0 {l:.4g}, lambda {lam:.3g}" for l, lam in zip(line["L0"], line["lam"])],
            }
            if f"{metric}_low" in line and protocol == "corrected":
                trace["error_y"] = interval(line[metric], line[f"{metric}_low"], line[f"{metric}_high"])
            figure.add_trace(go.Scatter(**trace))
        best = part[(part["protocol"] == "corrected") & (part["steps"] == -1)]
        if len(best):
            figure.add_hline(y=float(best[metric].iloc[0]), line_dash="dash", line_color=color, opacity=0.6)
    figure.update_layout(xaxis_title="ISTA steps from the encoder's code", yaxis_title=LABELS.get(metric, metric))
    if metric in ("NMSE", "L0"):
        figure.update_yaxes(type="log")
    text = (
        f"{LABELS.get(metric, metric)} against the number of steps. Dashed: the certified optimum, corrected objective."
    )
    return caption(figure, text)


def figures(table: pd.DataFrame) -> dict[str, Figure]:
    """All figures of the section by name."""
    return {
        metric: step_figure(table, metric) for metric in ("NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption")
    }
