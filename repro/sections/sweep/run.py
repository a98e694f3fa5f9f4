"""The semi sweep: how many steps from the encoder's code does it take, at what cost, and what do they change?"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.files import digest, write_atomically
from repro.codes import SparseCodes
from repro.evaluate import EvalData, EvalOptions, KeptCodes, TokenSums, code_key, probe_row
from repro.evaluate.steps import Clock, fista, ista
from repro.sections.comparison.run import LABELS
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from repro.sae import SAE


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


def sweep(
    sae: SAE,
    data: EvalData,
    steps: Sequence[int],
    o: EvalOptions,
    momentum: bool = False,
    bar: tqdm[Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one SAE: protocol, steps, solver, metrics and what the codes cost. lambda is calibrated once:
    as_released by the grid of nine, corrected to the encoder's L0 after 30 ISTA steps. `momentum`: FISTA's rows too.

    cost: in encoder passes, 1 + 2 k for k steps, as a step is two products of the encoder's size.
    flops_per_token: 2 d m a product, so 2 d m (1 + 2 k); what is linear in d or m is left out, and so is decoding. Of
    the optimum: 2 d m a pass over the dictionary; coordinate descent inside the working set is not counted.
    ms_per_token: measured, encoder included, on blocks of the evaluation tokens.
    bar: counts tokens; as released, corrected, with momentum, and the optimum are a pass each.
    """
    bar = bar if bar is not None else tqdm(disable=True)
    yield from _released(sae, data, steps, o, bar)
    yield from _corrected(sae, data, steps, o, momentum, bar)


def flops(passes: float, sae: SAE) -> float:
    """FLOPs of so many products of one token with the dictionary, or with the encoder."""
    return passes * 2 * sae.config.d * sae.config.m


def _released(
    sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions, bar: tqdm[Any]
) -> Iterator[dict[str, Any]]:
    from repro.evaluate.probes import norm_labels
    from repro.evaluate.released import Released
    from repro.metrics import Firing, Reconstruction, probe_metrics

    job = Released(sae, data, dataclasses.replace(o, released_k=False, target_dense=math.nan), tqdm(disable=True))
    lam, tokens, counts = job.lam, job.tokens, sorted(set(steps))
    kept = {count: KeptCodes(sae.config.m, job.device) for count in counts}
    sums: dict[int, list[Any]] = {}
    clock = Clock()
    for _, x in tokens.blocks(job.size, job.device):
        for count, codes in ista(x, job.atoms, lam, partial(job.encode, x), counts, False, job.shared, clock):
            new: list[Any] = [Reconstruction.of(x, codes.decode(job.atoms)), Firing.of(codes)]
            sums[count] = [a + b for a, b in zip(sums[count], new)] if count in sums else new
            kept[count].append(codes)
        bar.update(len(x))
    labels = norm_labels(tokens, job.size)
    for count in counts:
        row = {"protocol": "as_released", "steps": count, "cost": 1 + 2 * count, "lam": lam, "n_tokens": len(tokens)}
        row |= {"solver": "ista", "flops_per_token": flops(1 + 2 * count, sae), "ms_per_token": clock.ms(count, tokens)}
        for record in sums[count]:
            row |= record.value()
        yield row | probe_metrics(kept[count].blocks, labels, None, o.probe_ks)[0]


def _corrected(
    sae: SAE, data: EvalData, steps: Sequence[int], o: EvalOptions, momentum: bool, bar: tqdm[Any]
) -> Iterator[dict[str, Any]]:
    from repro.evaluate.ways import Corrected, Way
    from repro.solvers import Lasso, solve

    job = Corrected(sae, data, dataclasses.replace(o, refit=False), bar)
    try:
        lam = job.lam("semi")
    except BadInput as error:
        yield {"protocol": "corrected", "note": str(error)}
        return
    atoms, about = sae.W_dec.detach(), {"protocol": "corrected", "lam": lam, "n_tokens": len(data.tokens)}
    for solver, walk in (("ista", ista), ("fista", fista))[: 1 + momentum]:

        def after(x: Any, clock: Clock, walk: Any = walk) -> Iterator[tuple[int, SparseCodes]]:
            start, counts = partial(sae.encode_sparse, x), sorted(set(steps))
            return walk(sae.target(x), atoms, lam, start, counts, True, job.shared, clock)

        for row in _walked(job, after, sorted(set(steps))):
            yield about | {"solver": solver} | row
    products, clock = 0, Clock()

    def optimum(x: Any, rows: slice | None) -> SparseCodes:
        nonlocal products
        with (Clock() if rows is None else clock).on(-1):
            found = solve(Lasso(sae.target(x), atoms, lam, shared=job.shared), tol=o.tol)
        if rows is not None:
            products += int(found.steps.sum()) * (1 if found.solver == "working_set" else 2)
        return found.codes

    row = job.measure(Way(optimum, sae))
    counted, ms = flops(products / len(data.tokens), sae), clock.ms(-1, data.tokens)
    yield {**about, "steps": -1, "solver": "certified", "flops_per_token": counted, "ms_per_token": ms, **row}


def _walked(job: Any, after: Any, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows of one solver: metrics after so many steps."""
    from repro.metrics import pool

    sae, data, clock = job.sae, job.data, Clock()
    kept = {count: KeptCodes(sae.config.m, job.device) for count in counts}
    sums = {count: TokenSums(data.tokens.docs) for count in counts}
    for rows, x in data.tokens.blocks(job.size, job.device):
        for count, codes in after(x, clock):
            sums[count].add(rows, x, sae.decode(codes, x).detach(), codes)
            if data.labelled is None:
                kept[count].append(codes)
        job.bar.update(len(x))
    if data.labelled is not None:
        for docs, x in data.labelled.tokens.documents(job.size, job.device):
            for count, codes in after(x, Clock()):
                kept[count].append(pool(codes, docs))
    for count in counts:
        cost = {"flops_per_token": flops(1 + 2 * count, sae), "ms_per_token": clock.ms(count, data.tokens)}
        row = {"steps": count, "cost": 1 + 2 * count, **cost, **sums[count].value()}
        yield row | probe_row(data, kept[count].blocks, job.o)


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
