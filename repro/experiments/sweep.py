"""The semi sweep: how many ISTA steps from the encoder's code does it take, and what do they change?"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from repro.codes import SparseCodes
from repro.config import Scale, digest, write_atomically
from repro.errors import BadInput
from repro.evaluate import EvalData, EvalOptions, KeptCodes, TokenSums, code_key, probe_row
from repro.experiments.comparison import LABELS
from repro.experiments.setup import options, prepare
from repro.experiments.tables import save_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from repro.sae import SAE


def run(scale: Scale) -> pd.DataFrame:
    """Both protocols on every BatchTopK SAE of the scale, at every step count; corrected ends with the optimum."""
    from repro.checkpoints import load_sae

    started = time.perf_counter()
    ready = prepare(scale)
    rows: list[dict[str, Any]] = []
    for entry in ready.finals("batch_topk"):
        sae = load_sae(entry["path"]).to(ready.device)
        key = digest("sweep", code_key(), sae.source.sha256, ready.data.key, scale.sweep_steps, options(scale))
        done = ready.folder / "rows" / f"{key}.json"
        if not done.is_file():
            new = [
                {**row, "m": sae.config.m, "d": sae.config.d}
                for row in sweep(sae, ready.data, scale.sweep_steps, options(scale))
            ]
            write_atomically(done, lambda path, new=new: path.write_text(json.dumps(new)))
        rows += [
            {"variant": entry["variant"], "sparsity": entry["sparsity"], **r} for r in json.loads(done.read_text())
        ]
    return save_table("sweep", scale, rows, time.perf_counter() - started, key=ready.data.key)


def sweep(sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions) -> Iterator[dict[str, Any]]:
    """Rows of one SAE: protocol, steps, metrics, and the cost in encoder passes (two products of d x m a step).

    ISTA has no memory, so the codes after 10 steps are 5 more steps from those after 5. lambda is calibrated once:
    as_released by the grid of nine, corrected to the encoder's L0 after 30 steps.
    """
    yield from _released(sae, data, steps, o)
    yield from _corrected(sae, data, steps, o)


def _released(sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions) -> Iterator[dict[str, Any]]:
    from repro.evaluate.probes import norm_labels
    from repro.evaluate.released import Released
    from repro.metrics import Firing, Reconstruction, probe_metrics

    job = Released(sae, data, dataclasses.replace(o, released_k=False, target_dense=math.nan), tqdm(disable=True))
    lam, tokens, counts = job.lam, job.tokens, sorted(set(steps))
    kept = {count: KeptCodes(sae.config.m, job.device) for count in counts}
    sums: dict[int, list[Any]] = {}
    for _, x in tokens.blocks(job.size, job.device):
        for count, codes in _trajectory(x, job.atoms, lam, job.encode(x), counts, False, job.shared):
            new: list[Any] = [Reconstruction.of(x, codes.decode(job.atoms)), Firing.of(codes)]
            sums[count] = [a + b for a, b in zip(sums[count], new)] if count in sums else new
            kept[count].append(codes)
    labels = norm_labels(tokens, job.size)
    for count in counts:
        row = {"protocol": "as_released", "steps": count, "cost": 1 + 2 * count, "lam": lam, "n_tokens": len(tokens)}
        for record in sums[count]:
            row |= record.value()
        yield row | probe_metrics(kept[count].blocks, labels, None, o.probe_ks)[0]


def _corrected(sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions) -> Iterator[dict[str, Any]]:
    from repro.evaluate.corrected import Corrected, Way
    from repro.metrics import pool
    from repro.solvers import Lasso, solve

    job = Corrected(sae, data, dataclasses.replace(o, refit=False), tqdm(disable=True))
    try:
        lam = job.lam("semi")
    except BadInput as error:
        yield {"protocol": "corrected", "note": str(error)}
        return
    atoms, counts = sae.W_dec.detach(), sorted(set(steps))
    kept = {count: KeptCodes(sae.config.m, job.device) for count in counts}
    sums = {count: TokenSums(data.tokens.docs) for count in counts}

    def after(x: Any) -> Iterator[tuple[int, SparseCodes]]:
        return _trajectory(sae.target(x), atoms, lam, sae.encode_sparse(x), counts, True, job.shared)

    for rows, x in data.tokens.blocks(job.size, job.device):
        for count, codes in after(x):
            sums[count].add(rows, x, sae.decode(codes, x).detach(), codes)
            if data.labelled is None:
                kept[count].append(codes)
    if data.labelled is not None:
        for docs, x in data.labelled.tokens.documents(job.size, job.device):
            for count, codes in after(x):
                kept[count].append(pool(codes, docs))
    about = {"protocol": "corrected", "lam": lam, "n_tokens": len(data.tokens)}
    for count in counts:
        row = {**about, "steps": count, "cost": 1 + 2 * count, **sums[count].value()}
        yield row | probe_row(data, kept[count].blocks, o)

    def optimum(x: Any, rows: slice | None) -> SparseCodes:
        return solve(Lasso(sae.target(x), atoms, lam, shared=job.shared), tol=o.tol).codes

    yield {**about, "steps": -1, **job.measure(Way(optimum, sae))}


def _trajectory(
    target: Any,
    atoms: Any,
    lam: float,
    codes: SparseCodes,
    counts: Sequence[int],
    nonneg: bool,
    shared: dict[str, Any],
) -> Iterator[tuple[int, SparseCodes]]:
    """(count, codes after `count` ISTA steps) for rising counts."""
    from repro.solvers import Ista, Lasso, solve

    problem = Lasso(target, atoms, lam, nonneg, shared=shared)
    solver = Ista() if nonneg else Ista(1 / (problem.lipschitz + 1e-6))
    before = 0
    for count in counts:
        if count > before:
            codes = solve(problem, solver, codes, count - before, tol=None, proof=False).codes
        before = count
        yield count, codes


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Metrics by protocol and number of steps, mean over the SAEs; −1 steps is the certified optimum."""
    columns = ["cost", "NMSE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "absorption_null"]
    return table.groupby(["protocol", "steps"])[columns].mean().round(4)


def step_figure(table: pd.DataFrame, metric: str) -> Figure:
    """One metric against the number of ISTA steps, released (dotted) and corrected (solid); dashes = the optimum."""
    import plotly.graph_objects as go

    from repro.report.theme import PALETTE, caption, interval

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
