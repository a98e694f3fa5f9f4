"""Planning: what SAEBench at full size would take on many workers, from the measured costs of committed rows."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

from repro.base.memory import sae_bytes
from repro.metrics.names import MODES, PROTOCOLS
from repro.sections.performance.timings import bench, facts, is_gpu
from repro.sections.scales import SCALES
from repro.sections.setup import LABELLED_LENGTH
from repro.sections.tables import about, need_table
from repro.sections.types import DataFrame

SEEDS = 3
WORKERS = (1, 8, 64)


@dataclass(frozen=True)
class Grid:
    """Checkpoints that are evaluated in every mode, protocol and seed; a task is a checkpoint and a seed."""

    name: str
    d: int
    """Width of the activations."""
    each: int
    """Checkpoints of every number of latents."""
    m: tuple[int, ...]
    """Numbers of latents."""


WIDTHS = (4096, 16384, 65536)
GRIDS = (
    Grid("trajectories, Gemma-2-2B (84 = 2 families × 6 sparsities × 7 steps)", 2304, 2 * 6 * 7, (16384,)),
    Grid("final SAEs, Pythia-160M (7 families × 6 sparsities × 3 widths)", 768, 7 * 6, WIDTHS),
    Grid("final SAEs, Gemma-2-2B (7 families × 6 sparsities × 3 widths)", 2304, 7 * 6, WIDTHS),
)

LAYERS, TOKENS, CODES = 10, 1_000_000, (2304, 65536, 64)
"""Gemma-2-2B with the widest common SAEs: layers, tokens of each, and d, m and k of the benchmark of codes."""


def costs(scale: str = "small") -> DataFrame:
    """Seconds a token and GFLOP a second of each protocol and mode: medians over the SAEs of a committed comparison.

    `seconds_per_gflop` is the time of a row over 4 d m FLOP a token, one product with the dictionary and one back:
    that many times as long as it takes, per token, is what a row of another shape is taken to cost.
    """
    table = need_table("comparison", scale)
    table = table[table["mode"].isin(MODES)]
    a_token = table["seconds"] / table["n_tokens"]
    table = table.assign(ms_per_token=1e3 * a_token, seconds_per_gflop=a_token / (4e-9 * table["d"] * table["m"]))
    grouped = table.groupby(["protocol", "mode"], sort=False)
    medians = grouped[["n_tokens", "d", "m", "ms_per_token", "seconds_per_gflop"]].median()
    return medians.assign(rows=grouped.size()).reset_index()


def check(scale: str = "small", other: str = "tiny") -> DataFrame:
    """The rule on shapes that were measured too: ms a token at another scale predicted from `scale`, and measured."""
    ours, theirs = costs(scale), costs(other)
    both = theirs.merge(ours[["protocol", "mode", "seconds_per_gflop"]], on=["protocol", "mode"], suffixes=("", "_of"))
    predicted = 1e3 * both["seconds_per_gflop_of"] * 4e-9 * both["d"] * both["m"]
    columns = ["protocol", "mode", "d", "m", "ms_per_token"]
    out = both[columns].assign(source=f"{other}/comparison", predicted=predicted)
    measured = bench("evaluate")
    if measured is not None:
        part = measured[~measured["device"].map(is_gpu) & measured["mode"].isin(MODES)]
        part = part.merge(ours[["protocol", "mode", "seconds_per_gflop"]], on=["protocol", "mode"])
        predicted = 1e3 * part["seconds_per_gflop"] * 4e-9 * part["d"] * part["m"]
        part = part.assign(ms_per_token=1e3 / part["tokens_per_second"], predicted=predicted, source="bench evaluate")
        out = _stack([out, part[[*columns, "source", "predicted"]]])
    return out.assign(predicted_over_measured=out["predicted"] / out["ms_per_token"]).round(3)


def plan(scale: str = "small", grids: tuple[Grid, ...] = GRIDS, seeds: int = SEEDS) -> DataFrame:
    """A row a grid and number of workers: hours, GiB a worker, and what goes over the network.

    Every task reads its checkpoint, every worker the activations of all tokens and labelled documents once.
    """
    import pandas as pd

    rate = costs(scale).groupby(["protocol", "mode"])["seconds_per_gflop"].first()
    tokens = {"as_released": SCALES["paper"].released_tokens, "corrected": SCALES["paper"].eval_tokens}
    a_unit = sum(rate[p, mode] * tokens[p] for p in PROTOCOLS for mode in MODES)  # seconds of a task per GFLOP a token
    documents = max(tokens.values()) * SCALES[scale].label_docs / SCALES[scale].eval_tokens
    stored = max(tokens.values()) + documents * LABELLED_LENGTH
    rows = []
    for grid in grids:
        sizes = [m for m in grid.m for _ in range(grid.each * seeds)]
        seconds = [a_unit * 4e-9 * grid.d * m for m in sizes]
        read = sum(sae_bytes(grid.d, m) for m in sizes)
        for workers in WORKERS:
            hours = makespan(seconds, workers) / 3600
            copies = workers * stored * grid.d * 4
            rows.append(
                {
                    "grid": grid.name,
                    "tasks": len(sizes),
                    "rows": len(sizes) * len(MODES) * len(PROTOCOLS),
                    "workers": workers,
                    "hours": hours,
                    "worker hours": sum(seconds) / 3600,
                    "hours on as many GPUs": gpu_hours(seconds, scale, workers),
                    "longest task, hours": max(seconds) / 3600,
                    "GiB a worker": memory_gib(grid.d, max(grid.m)),
                    "GB read": (read + copies) / 1e9,
                    "mean Mbit/s": 8e-6 * (read + copies) / (3600 * hours),
                }
            )
    return pd.DataFrame(rows)


def codes_plan(folder: Path | None = None) -> DataFrame | None:
    """Hours, memory and bytes for codes of TOKENS tokens at LAYERS layers, a row a kind of code and device.

    From rows of `repro bench pursuit` at the shape CODES; only the number of tokens is scaled. Every worker reads the
    weights of one SAE and its activations once. None where that shape has no rows.
    """
    table, (d, m, _) = bench("pursuit", folder), CODES
    if table is None or (table := table[(table[["d", "m", "k"]] == list(CODES)).all(axis=1)]).empty:
        return None
    weights = sae_bytes(d, m)
    hours = table["ms_per_token"] * LAYERS * TOKENS / 3.6e6
    return table.assign(
        codes=table["method"].replace("x @ W_enc", "encoder's product"),
        worker_hours=hours,
        longest=hours / LAYERS,
        memory=weights / 2**30 + table["extra_mib"].fillna(0) / 1024,
        read=LAYERS * (weights + 4 * d * TOKENS) / 1e9,
    )[["codes", "device", "times_the_encoder", "worker_hours", "longest", "memory", "read"]].rename(
        columns={
            "times_the_encoder": "× the encoder",
            "worker_hours": "worker hours",
            "longest": f"hours on {LAYERS} workers",
            "memory": "GiB a worker",
            "read": "GB read",
        }
    )


def makespan(seconds: list[float], workers: int) -> float:
    """When the last task ends if each worker takes the next one as soon as it is free."""
    free = [0.0] * workers
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def memory_gib(d: int, m: int) -> float:
    """Weights, and the largest memory beyond them that a measured evaluation on a CPU took, or in proportion to d m.

    What is beyond the weights holds blocks of fixed size and copies of the dictionary; a dictionary larger than any
    that was measured is taken to need as much more as it is larger.
    """
    table = bench("evaluate")
    if table is None:
        return float("nan")
    part = table[~table["device"].map(is_gpu)]
    largest = part.loc[part["peak_mib_beyond_weights"].idxmax()]
    grown = max(1.0, d * m / (largest["d"] * largest["m"]))
    return sae_bytes(d, m) / 2**30 + largest["peak_mib_beyond_weights"] * grown / 1024


def gpu_hours(seconds: list[float], scale: str, workers: int) -> float | str:
    """Hours on GPUs, where every protocol and mode was measured on one by `repro bench evaluate`; else "not measured".

    A task takes on the GPU its time here times the ratio of both measured costs, summed over protocols and modes.
    """
    table = bench("evaluate")
    part = None if table is None else table[table["device"].map(is_gpu) & table["mode"].isin(MODES)]
    if part is None or len(part.drop_duplicates(["protocol", "mode"])) < len(MODES) * len(PROTOCOLS):
        return "not measured"
    rate = 1 / (part["tokens_per_second"] * 4e-9 * part["d"] * part["m"])
    there = rate.groupby([part["protocol"], part["mode"]]).median().sum()
    here = costs(scale)["seconds_per_gflop"].sum()
    return makespan([s * there / here for s in seconds], workers) / 3600


def overhead(folder: Path | None = None) -> str:
    """The time that handing out a task adds, from `repro bench scale`, in a sentence."""
    table = bench("scale", folder)
    if table is None:
        return "What handing out a task adds has not been measured yet: `repro bench scale`."
    part = table.dropna(subset=["overhead_seconds_a_task"])
    worst = part.loc[part["overhead_seconds_a_task"].idxmax()]
    return (
        f"Handing out a task costs a worker {part['overhead_seconds_a_task'].min():.2f} to "
        f"{worst['overhead_seconds_a_task']:.2f} s (most with {worst['engine']}). {facts(table)}"
    )


def page(scale: str = "small") -> str:
    """The plan as markdown for book/scale.md: how it is computed, a table of hours and sizes, and how far it holds."""
    table, base, machine = plan(scale), costs(scale).iloc[0], about("comparison", scale).get("device", "unknown")
    if (table["hours on as many GPUs"] == "not measured").all():
        table = table.drop(columns="hours on as many GPUs")
    return "\n\n".join(
        (
            f"The measured rows come from {machine} at {base['d']:.0f} × {base['m']:,.0f} (width × latents). Their "
            "median seconds a token are scaled by 4 d m, the floating-point operations of one product with the "
            f"dictionary and one back, to {SCALES['paper'].eval_tokens:,} tokens, {SEEDS} seeds, {len(MODES)} "
            f"inference modes and {len(PROTOCOLS)} protocols. A task is one checkpoint and one seed. Hours on GPUs are "
            "given only where a GPU has measured every mode and protocol.",
            _markdown(table),
            "How far this rule holds is known where other shapes were measured too. It predicts too little for small "
            "shapes, where part of the time does not grow with the dictionary, and mostly too much for large ones, "
            "where certified inference does not visit every atom. In rows of `repro bench evaluate` there are no "
            "labelled documents, and `amortized` includes the optimum that its gap needs, so that `non` is cheap:",
            _markdown(check(scale)),
            overhead(),
            *_codes_page(),
        )
    )


def _codes_page() -> tuple[str, ...]:
    """The plan for codes better than the encoder's, and on which devices it holds; nothing without measured rows."""
    table = codes_plan()
    if table is None:
        return ()
    d, m, k = CODES
    gpus = "" if any(map(is_gpu, table["device"])) else " No GPU has measured this shape: `.ci/gpu` adds its rows."
    return (
        f"### Better codes for Gemma-2-2B\n\nCodes of {TOKENS:,} tokens at each of {LAYERS} layers, width × latents "
        f"{d:,} × {m:,}, k = {k}. These rows were measured at this shape (`repro bench pursuit`); only the number of "
        "tokens is scaled. A worker takes one layer: it holds the weights, and reads them and the activations once."
        + gpus,
        _markdown(table),
    )


def _markdown(table: DataFrame) -> str:
    cells = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in cells)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _stack(parts: list[DataFrame]) -> DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)
