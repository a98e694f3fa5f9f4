"""The dynamics computed: every checkpoint of the paper's two variants, or of all six."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from repro.base.errors import BadInput
from repro.evaluate import evaluate_checkpoints
from repro.sections.dynamics.words import sparser
from repro.sections.scales import TRAJECTORIES, Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

PAPER_VARIANTS = ("standard", "topk")  # the paper's §4.3 follows these two


def run(scale: Scale, name: str = "dynamics", variants: tuple[str, ...] = PAPER_VARIANTS) -> DataFrame:
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
    checkpoints = [c for c in ready.checkpoints if c["variant"] in variants]
    sparsest = []
    for variant in PAPER_VARIANTS:
        points = [c for c in checkpoints if c["variant"] == variant]
        least = min(sparser(variant, c["sparsity"]) for c in points)
        sparsest += [c for c in points if sparser(variant, c["sparsity"]) == least]
    rows += evaluate_checkpoints(sparsest, ready.data, released, ready.folder / "rows", ready.device)
    for final in (c for c in checkpoints if c["final"]):
        trajectory = [c for c in checkpoints if c["trainer"] == final["trainer"] and c["variant"] == final["variant"]]
        matched = evaluate_checkpoints([final], ready.data, corrected, ready.folder / "rows", ready.device)
        fixed = dataclasses.replace(corrected, lam=matched[0].get("lam"))
        rows += evaluate_checkpoints(trajectory, ready.data, fixed, ready.folder / "rows", ready.device)
    return save_table(name, scale, rows, time.perf_counter() - started, key=ready.data.key)


def run_variants(scale: str) -> DataFrame:
    """The variants of SAEBench along training at the settings of `TRAJECTORIES`; writes the table `trajectories`."""
    if scale not in TRAJECTORIES:
        raise BadInput(f"No trajectories are set up for scale '{scale}'; there are {', '.join(TRAJECTORIES)}.")
    return run(TRAJECTORIES[scale], "trajectories", tuple(TRAJECTORIES[scale].grid))
