"""Several workers: rows a minute and seconds a task of every engine, and whether the table is the same to the bit."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repro.base.config import CheckpointRoots, MetricsConfig, RunConfig
from repro.base.errors import BadInput
from repro.bench.common import append, flag, machine, table, timed
from repro.bench.evaluate import synthetic_sae, write_activations

if TYPE_CHECKING:
    import pandas as pd

SCHEDULERS = {"slurm": "local"}  # submitit's executor that tries a job array on this machine


@dataclass(frozen=True)
class Scale:
    """Evaluate synthetic checkpoints through every engine at 1, 2, … workers; one process alone is the reference.

    Each run begins without rows, starts its own workers and includes that in its time, as a user's command does.
    """

    checkpoints: int = flag(6, "checkpoints to evaluate, a task each")
    tokens: int = flag(1500, "tokens to evaluate each on")
    d: int = flag(64, "width of the activations")
    m: int = flag(1024, "latents")
    k: int = flag(16, "mean L0 of the encoder")
    engines: tuple[str, ...] = flag(("local", "dask", "slurm"), "engines; slurm through submitit's local executor")
    workers: tuple[int, ...] = flag((1, 2), "numbers of workers")
    threads: int = flag(1, "threads of each worker, and of the reference")
    seed: int = flag(0, "seed of weights and activations")
    out: Path | None = flag(None, "folder of scale.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row an engine and number of workers to scale.csv; returns its path."""
        torch.set_num_threads(self.threads)
        path = table("scale", self.out)
        with tempfile.TemporaryDirectory() as folder:
            config = self._prepare(Path(folder))
            alone, seconds = self._evaluate(replace(config, workers=1), Path(folder))
            rows = [self._row("this process", 1, alone, seconds, [], alone)]
            for engine in self.engines:
                for workers in self.workers:
                    if engine == "local" and workers == 1:
                        continue  # that is this process
                    how: Any = {"engine": engine, "workers": workers, "scheduler": SCHEDULERS.get(engine)}
                    evaluated, seconds = self._evaluate(replace(config, **how), Path(folder))
                    rows.append(self._row(engine, workers, evaluated, seconds, _tasks(Path(folder)), alone))
        facts = machine("joblib", "distributed", "submitit")
        append(path, [{**row, **facts} for row in rows])
        if not all(row["identical"] for row in rows):
            raise BadInput(f"An engine made another table than one process; see the column identical of {path}.")
        return path

    def _prepare(self, folder: Path) -> RunConfig:
        from repro.checkpoints import save_sae
        from repro.commands.many import index

        for i in range(self.checkpoints):
            sae = synthetic_sae(self.d, self.m, self.k, self.seed + i)
            save_sae(sae, folder / "saes" / f"{i}.safetensors")
        write_activations(folder / "acts_layer0.npy", sae, self.tokens, self.seed)
        config = RunConfig(
            output_dir=str(folder),
            sae_checkpoints={"batch_topk": CheckpointRoots(roots=(str(folder / "saes"),))},
            metrics=MetricsConfig(max_tokens=self.tokens, exclude=()),
            protocol="corrected",
            device="cpu",
            threads=self.threads,
        )
        index(config)
        return config

    def _evaluate(self, config: RunConfig, folder: Path) -> tuple[pd.DataFrame, float]:
        import pandas as pd

        from repro.commands.many import evaluate

        for file in (*folder.glob("rows/*"), *folder.glob("tasks/*")):
            file.unlink()
        with contextlib.redirect_stderr(io.StringIO()):  # bars
            _, seconds = timed(lambda: evaluate(config))
        rows = pd.read_parquet(folder / "metrics.parquet")
        return rows.drop(columns=[c for c in rows if "second" in c]), seconds

    def _row(
        self,
        engine: str,
        workers: int,
        evaluated: pd.DataFrame,
        seconds: float,
        tasks: list[dict[str, Any]],
        alone: pd.DataFrame,
    ) -> dict[str, Any]:
        row = {
            "engine": engine,
            "workers": workers,
            "tasks": self.checkpoints,
            "rows": len(evaluated),
            "d": self.d,
            "m": self.m,
            "tokens": self.tokens,
            "seconds": round(seconds, 2),
            "rows_per_minute": round(60 * len(evaluated) / seconds, 1),
            **_costs(tasks, workers, seconds),
            "identical": bool(evaluated.equals(alone)),
        }
        print(row, file=sys.stderr, flush=True)
        return row


def _tasks(folder: Path) -> list[dict[str, Any]]:
    from repro.jobs.task import status

    return status(folder)


def _costs(tasks: list[dict[str, Any]], workers: int, seconds: float) -> dict[str, Any]:
    """Seconds until the first task began and after the last ended, of work, and of a worker a task beside its work."""
    if not tasks:
        return {"seconds_around": "", "seconds_of_work": "", "overhead_seconds_a_task": ""}
    work = sum(task["seconds"] for task in tasks)
    between = max(task["time"] for task in tasks) - min(task["time"] - task["seconds"] for task in tasks)
    return {
        "seconds_around": round(seconds - between, 2),
        "seconds_of_work": round(work, 2),
        "overhead_seconds_a_task": round((min(workers, len(tasks)) * between - work) / len(tasks), 3),
    }
