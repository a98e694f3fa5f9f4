"""The semi sweep: how many ISTA steps from the encoder's code does it take, and what do they change?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from repro.codes import SparseCodes
from repro.config import Scale, digest, write_atomically
from repro.evaluate import EvalData, EvalOptions, code_key, probe_row, token_metrics
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
    from repro.inference import encode_as_released, released_lambda
    from repro.metrics import Firing, evaluate_codes

    x = data.tokens.x[: o.released_tokens]
    start = encode_as_released(sae, x)
    lam = released_lambda(x, sae.W_dec.detach(), Firing.of(start).value()["dense@0.1"])
    for count, codes in _trajectory(x, sae.W_dec.detach(), lam, start, steps, nonneg=False):
        yield {"protocol": "as_released", "steps": count, "cost": 1 + 2 * count, "lam": lam, "n_tokens": len(x)} | (
            evaluate_codes(x, codes, sae, protocol="as_released", ks=o.probe_ks)
        )


def _corrected(sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions) -> Iterator[dict[str, Any]]:
    from repro.errors import BadInput
    from repro.inference import calibrate_lambda, infer, spread

    x = data.tokens.x
    sample = x[spread(len(x), 1000)]
    target_l0 = float(sae.encode_sparse(sample).l0.double().mean())
    try:
        lam = calibrate_lambda(sae, sample, target_l0, "semi", o.semi_steps, solve_tol=o.tol)
    except BadInput as error:
        yield {"protocol": "corrected", "note": str(error)}
        return
    labelled = data.labelled
    atoms = sae.W_dec.detach()
    on_labelled: Any = iter(())
    if labelled is not None:
        on_labelled = _trajectory(
            sae.target(labelled.tokens.x), atoms, lam, sae.encode_sparse(labelled.tokens.x), steps, nonneg=True
        )
    for count, codes in _trajectory(sae.target(x), atoms, lam, sae.encode_sparse(x), steps, nonneg=True):
        probed = next(on_labelled, (count, codes))[1]
        yield {"protocol": "corrected", "steps": count, "cost": 1 + 2 * count, "lam": lam, "n_tokens": len(x)} | (
            token_metrics(x, sae.decode(codes, x).detach(), codes, data.tokens.docs) | probe_row(data, probed, o)
        )
    best = infer(sae, x, "non", lam=lam, tol=o.tol)
    probed = (
        best.codes if labelled is None else infer(sae, labelled.tokens.x, "non", lam=lam, tol=o.tol, gap=False).codes
    )
    yield {"protocol": "corrected", "steps": -1, "lam": lam, "n_tokens": len(x)} | (
        token_metrics(x, best.x_hat, best.codes, data.tokens.docs) | probe_row(data, probed, o)
    )


def _trajectory(
    target: Any, atoms: Any, lam: float, codes: SparseCodes, steps: Sequence[int], nonneg: bool
) -> Iterator[tuple[int, SparseCodes]]:
    """(count, codes after `count` ISTA steps) for rising counts."""
    from repro.objective import lipschitz
    from repro.solvers import Ista, Lasso, solve

    L = lipschitz(atoms)
    solver = Ista(1 / (L + 1e-6)) if not nonneg else Ista()
    problem = Lasso(target, atoms, lam, nonneg, L=L)
    before = 0
    for count in sorted(set(steps)):
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
