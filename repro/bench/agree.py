"""A trained SAE evaluated on this device and on the CPU: the same rows within tolerances, and what they take."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repro.base.config import DatasetConfig, MetricsConfig, ModelConfig, RunConfig
from repro.base.machine import pick_device
from repro.bench.common import Table, flag, machine, metered_items, table, timed
from repro.bench.solvers import decided
from repro.evaluate import EvalData, EvalOptions, evaluate_sae, open_data
from repro.inference import MODES
from repro.sae import SAE
from repro.solvers import AUTO
from repro.training.recipe import Job, Recipe
from repro.training.trainer import Trainer

COLUMNS = ("lam", "NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "NMSE_refit", "amort_gap_relative", "converged")
"""What is compared. Probes are not: a tie between two latents decides which of them is probed."""
ENCODER = ("NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "NMSE_refit")
"""Columns of the mode amortized that no calibrated lambda enters."""
TOLERANCE = {"encoder": 2e-3, "calibrated": 0.04}
"""Of a difference, relative to the larger value, or absolute below 1. The encoder's rows differ by the rounding of a
product, which moves codes at their threshold. The others have a lambda that each device calibrates by itself to a mean
L0 within 2 %: twice that between two devices."""


@dataclass(frozen=True)
class Agree:
    """Train an SAE on the bundled model's activations, evaluate it on the device, then on fewer tokens on both."""

    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: the GPU where there is one")
    m: int = flag(16_384, "latents")
    k: int = flag(32, "k of the BatchTopK SAE")
    train_tokens: int = flag(150_000, "tokens it is trained on")
    steps: int = flag(300, "training steps")
    batch: int = flag(2048, "tokens a step")
    tokens: int = flag(100_000, "tokens that the device evaluates")
    both: int = flag(2000, "tokens that the device and the CPU evaluate and whose rows are compared")
    modes: tuple[str, ...] = flag(MODES, "corrected modes and controls")
    solver: str = flag("measured", "of certified codes; measured: what solvers.csv in --out names for this device")
    out: Path | None = flag(None, "folder of agree.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row a mode, device and number of tokens to agree.csv; RuntimeError names rows that differ."""
        device = pick_device(self.device)
        csv = Table("agree", self.out, "triton", "numba", "transformers", device=device)
        measured = self.solver == "measured"
        solver = decided(table("solvers", self.out), csv.facts["device"]) if measured else self.solver
        wrong = []
        with tempfile.TemporaryDirectory() as folder, solver_of(device, solver) as name:
            train_x, tokens = self._data(Path(folder), device)
            (sae, fve), seconds = timed(lambda: self._train(train_x, device), device)
            print(f"trained {self.m} latents in {seconds:.1f} s, FVE {fve:.3f} on its last batch", flush=True)
            facts = {"d": train_x.shape[1], "m": self.m, "k": self.k, "solver": name}
            for n in (self.tokens, self.both):
                here = []
                for row in self._rows(sae, tokens, n, device):
                    csv.add(row | facts)
                    here.append(row)
            cpu = machine("triton", "numba", "transformers")
            for mine, row in zip(here, self._rows(sae, tokens, self.both, "cpu")):
                differences = compare(mine, row)
                csv.add(row | {"differs_from_device": "; ".join(differences) or "none"} | facts | cpu)
                wrong += [f"{row['mode']} {difference}" for difference in differences]
        if wrong:
            raise RuntimeError(f"Rows of {device} and the CPU differ: {'; '.join(wrong)}.")
        return csv.path

    def _data(self, folder: Path, device: Any) -> tuple[Tensor, EvalData]:
        """Training activations [train_tokens, d], and evaluation tokens that come after them."""
        from repro.activations.collect import collect
        from repro.activations.store import open_store

        wanted = int(1.05 * (self.train_tokens + max(self.tokens, self.both))) + 256
        text = DatasetConfig("tiny", max_tokens=wanted, batch_size=64)
        acts = collect(RunConfig(output_dir=str(folder), model=ModelConfig("tiny"), dataset=text, device=device))
        metrics = MetricsConfig(max_tokens=max(self.tokens, self.both))
        rows = open_store(acts).select(metrics.exclude, None)
        return rows.read(slice(0, self.train_tokens)), open_data(acts, metrics, skip=self.train_tokens)

    def _train(self, x: Tensor, device: str) -> tuple[SAE, float]:
        """The SAE and its FVE on the last batch."""
        scale = float(x.double().square().sum(1).mean().sqrt())
        x = (x / scale).to(device)
        job = Job("batch_topk", self.k, self.m)
        trainer = Trainer(job, Recipe.scaled(self.steps, self.batch), x.shape[1], device)
        buffer = torch.empty(self.batch, self.m, device=device)
        g = torch.Generator().manual_seed(0)
        for _ in range(self.steps):
            batch = x[torch.randint(len(x), (self.batch,), generator=g).to(device)]
            stats = trainer.update(batch, buffer)
        sae = trainer.sae(scale, batch).requires_grad_(False)
        return sae, 1 - stats.sse / float((batch - batch.mean(0)).square().sum(1).mean())

    def _rows(self, sae: SAE, data: EvalData, n: int, device: str) -> Iterator[dict[str, Any]]:
        """One row a mode over the first n tokens, each when it is ready."""
        options = EvalOptions(modes=self.modes, protocols=("corrected",))
        part = replace(data, tokens=data.tokens.first(n))
        for row, seconds, peak, _ in metered_items(evaluate_sae(sae.to(device), part, options), device):
            yield {
                "mode": row["mode"],
                "tokens": row["n_tokens"],
                "seconds": seconds,
                "tokens_per_second": row["n_tokens"] / seconds,
                "peak_mib": peak,
                **{name: float(row[name]) for name in COLUMNS if row.get(name) is not None},
                "note": row.get("note", ""),
            }


@contextmanager
def solver_of(device: str, name: str | None) -> Iterator[str]:
    """Certified codes of this device come from the solver `name` while this is open; None: from what they come from."""
    before = AUTO[device]
    AUTO[device] = name or before
    try:
        yield AUTO[device]
    finally:
        AUTO[device] = before


def compare(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Columns of two rows of one mode that differ by more than their tolerance, with both values."""
    out = []
    for name in COLUMNS:
        if name not in a and name not in b:
            continue
        x, y = float(a.get(name, math.nan)), float(b.get(name, math.nan))
        kind = "encoder" if a["mode"] == "amortized" and name in ENCODER else "calibrated"
        if not abs(x - y) <= TOLERANCE[kind] * max(1.0, abs(x), abs(y)):
            out.append(f"{name} {x:.5g} and {y:.5g}")
    return out
