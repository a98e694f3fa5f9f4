"""train: several SAEs on one stream of activations; each batch is read once, every SAE takes one step on it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.lock import only_one
from repro.base.machine import pick_device
from repro.metrics import Firing, Reconstruction
from repro.sae import SAE, Source
from repro.training.files import Run, check_space
from repro.training.recipe import Job, Recipe
from repro.training.trainer import Stats
from repro.training.watchers import Watch

SCALE_TOKENS = 16_384  # tokens whose mean square norm is the scale
EVAL_TOKENS = 16_384  # training tokens that stand in where none are held out
LOG_LINES = 200  # lines of log.jsonl in a whole run

Language = Callable[[SAE], dict[str, Any]]
"""Entries for eval_results.json, computed from a finished SAE."""


class Stream(Protocol):
    """A source of training batches; repro.activations.store.Rows is one."""

    @property
    def n(self) -> int: ...
    @property
    def d(self) -> int: ...
    def batches(self, batch_size: int, seed: int, start_batch: int = 0) -> Iterator[Tensor]: ...
    def take(self, n: int, seed: int | None = None) -> Any: ...
    def describe(self) -> dict[str, Any]: ...


def train(
    rows: Stream,
    jobs: Sequence[Job],
    recipe: Recipe,
    output_dir: str | Path,
    lm_name: str = "",
    layer: int | None = None,
    device: str = "auto",
    *,
    only: Collection[int] | None = None,
    held_out: Tensor | None = None,
    starts: Sequence[SAE] | None = None,
    language: Language | None = None,
    state_every: int | None = None,
    watch: Watch | None = None,
    progress: bool = True,
    site: str = "resid_post",
) -> list[Path]:
    """Train every job on the same batches of `rows` -> the folders of the SAEs, in the order of the jobs.

    Written to output_dir/{variant}/{site}_layer_{layer}/trainer_{i}, i counting the jobs of a variant. Every
    `state_every` steps (a tenth of the run, at most 1,000) and at the later checkpoints the full state is saved:
    an interrupted run goes on from there and ends, on a CPU with the same number of threads, in the same bits. Finished
    SAEs are not trained again.
    `only`: train these jobs, by index, and leave the others to other processes of the caller, who holds the folders of
    all (`alone`). `held_out` [n, d], raw, is what eval_results.json is computed on; else training tokens.
    `starts`: an SAE for raw activations a job, whose weights its training begins from (with a new optimizer).
    `watch`: is given each line of log.jsonl with the SAE's folder (`training.watchers`).
    `language`: what else goes into eval_results.json, computed from the finished SAE (`training.language`).
    On a CPU, SAEs train side by side, one a core, as far as there are that many.
    Raises BadInput before training for input that cannot work, and when a loss stops being finite.
    """
    jobs = list(jobs)
    _check(rows, jobs, recipe, held_out, starts)
    begin: list[SAE | None] = [None] * len(jobs) if starts is None else list(starts)
    where = torch.device(pick_device(device))
    scale = _scale(rows, recipe)
    about = {"d": rows.d, "lm_name": lm_name, "layer": layer, "scale": scale, "data": rows.describe()}
    about |= {} if site == "resid_post" else {"site": site}  # runs of before the site was known go on
    counts: dict[str, int] = {}
    runs = []
    for job in jobs:
        i = counts[job.variant] = counts.get(job.variant, -1) + 1
        folder = Path(output_dir) / job.variant / f"{site}_layer_{layer}" / f"trainer_{i}"
        runs.append((folder, job))
    every_folder = [folder for folder, _ in runs]
    mine = range(len(jobs)) if only is None else sorted(only)
    check_space(Path(output_dir), [jobs[i] for i in mine] or jobs, recipe, rows.d)
    with alone(every_folder) if only is None else nullcontext():
        opened = [Run(*runs[i], recipe, about, where, begin[i]) for i in mine]
        active = [run for run in opened if not run.finished]
        if active:
            every = state_every or max(1, min(1000, recipe.steps // 10))
            _loop(rows, active, every, watch, progress)
            _finish(rows, active, held_out, language)
    return every_folder


@contextmanager
def alone(folders: Sequence[Path]) -> Iterator[None]:
    """Hold these folders against a second training."""
    with ExitStack() as locks:
        for folder in sorted({folder.parent for folder in folders}):
            locks.enter_context(only_one(folder, "repro train"))
        yield


def _loop(rows: Stream, runs: list[Run], state_every: int, watch: Watch | None, progress: bool) -> None:
    recipe, scale, device = runs[0].recipe, runs[0].scale, runs[0].trainer.device
    saved = set(recipe.checkpoint_steps()) - {recipe.steps}
    log_every = max(1, recipe.steps // LOG_LINES)
    start = min(run.trainer.step for run in runs)
    began = time.monotonic()

    @cache
    def buffer(m: int, thread: int) -> Tensor:  # one a thread, not one an SAE
        return torch.empty(recipe.batch_size, m, device=device)

    def advance(run: Run, x: Tensor, variance: float) -> Stats:
        step = run.trainer.step
        if step in saved:
            run.save_weights(run.trainer.sae(scale, x, Source(family=run.job.variant, step=step)), step)
        if step and (step % state_every == 0 or (step in saved and step > state_every)):
            run.save_state()
        stats = run.trainer.update(x, buffer(run.job.m, threading.get_ident()))
        if not math.isfinite(stats.loss):
            raise BadInput(
                f"The loss of {run.job.variant} at {run.job.sparsity_name} = {run.job.sparsity:g} is {stats.loss} at "
                f"step {step}: lower the learning rate (it is {recipe.lr:g})."
            )
        if step % log_every == 0 or step == recipe.steps - 1:
            done = (step + 1 - start) * recipe.batch_size
            speed = done / max(time.monotonic() - began, 1e-9)
            line = asdict(stats) | {"FVE": 1 - stats.sse / variance, "tokens": (step + 1) * recipe.batch_size}
            line = {k: round(v, 6) for k, v in line.items()} | {"tokens_per_s": round(speed)}
            run.log(line)
            if watch is not None:
                watch(run.folder, line)
        return stats

    total = recipe.steps * recipe.batch_size
    bar = tqdm(total=total, initial=start * recipe.batch_size, unit="tok", unit_scale=True, disable=not progress)
    with bar, _workers(len(runs), device) as each:
        batches = rows.batches(recipe.batch_size, recipe.seed, start_batch=start)
        for step in range(start, recipe.steps):
            if all(run.trainer.stopped for run in runs):
                break
            x = next(batches).to(device) / scale
            variance = float((x - x.mean(0)).square().sum()) / len(x)
            due = [run for run in runs if run.trainer.step == step and not run.trainer.stopped]
            stats = list(each(lambda run, x=x, v=variance: advance(run, x, v), due))
            bar.update(recipe.batch_size)
            if progress and stats:
                bar.set_postfix_str(_summary(stats, variance), refresh=False)


def _finish(rows: Stream, runs: list[Run], held_out: Tensor | None, language: Language | None) -> None:
    recipe, device = runs[0].recipe, runs[0].trainer.device
    last = next(rows.batches(recipe.batch_size, recipe.seed, start_batch=recipe.steps - 1)).to(device)
    for run in runs:
        sae = run.trainer.sae(run.scale, last / run.scale, Source(family=run.job.variant, step=run.trainer.step))
        run.finish(sae, eval_results(sae.to(device), rows, recipe.seed, held_out, language, run.trainer.step))


def eval_results(
    sae: SAE, rows: Stream, seed: int, held_out: Tensor | None, language: Language | None, steps: int
) -> dict[str, Any]:
    """Evaluate an SAE after so many steps on held-out raw tokens [n, d], else on training tokens that the seed draws.

    With what `language` adds.
    """
    x = rows.take(EVAL_TOKENS, seed=seed).x if held_out is None else held_out
    results = evaluate(sae, x.to(sae.W_dec.device))
    results |= {"tokens": "training" if held_out is None else "held out", "steps": steps}
    return results if language is None else results | language(sae)


@torch.no_grad()
def evaluate(sae: SAE, x: Tensor, block: int = 4096) -> dict[str, Any]:
    """NMSE, FVE, L0, dead_rate, dense@0.1, dense@0.2 and n_tokens of the encoder's own codes of raw x [n, d]."""
    fits, firings = [], []
    for rows in x.split(block):
        codes = sae.encode_sparse(rows, block)
        fits.append(Reconstruction.of(rows, sae.decode(codes, rows)))
        firings.append(Firing.of(codes))
    return reduce(add, fits).value() | reduce(add, firings).value() | {"n_tokens": len(x)}


@contextmanager
def _workers(jobs: int, device: torch.device) -> Iterator[Any]:
    """A map over SAEs: side by side on a CPU, cores divided among them; one after the other elsewhere.

    SAEs share nothing but the batch, so whole SAEs divide among cores better than the small operations of one do.
    """
    threads = torch.get_num_threads()
    side_by_side = min(threads, jobs) if device.type == "cpu" else 1
    if side_by_side == 1:
        yield map
        return
    torch.set_num_threads(max(1, threads // side_by_side))
    try:
        with ThreadPoolExecutor(side_by_side) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


def _summary(stats: list[Stats], variance: float) -> str:
    def span(values: list[float], form: str) -> str:
        low, high = format(min(values), form), format(max(values), form)
        return low if low == high else f"{low}-{high}"

    fve = span([1 - s.sse / variance for s in stats], ".2f")
    return f"FVE {fve}, L0 {span([s.L0 for s in stats], '.0f')}, dead {span([s.dead for s in stats], '.2f')}"


def _scale(rows: Stream, recipe: Recipe) -> float:
    """sqrt(mean |x|^2) over a sample of tokens; 1 without normalisation."""
    x = rows.take(SCALE_TOKENS, seed=recipe.seed).x
    if not bool(torch.isfinite(x).all()):
        raise BadInput("The activations hold NaN or infinite values; collect them again in float32 or bfloat16.")
    scale = float(x.double().square().sum(1).mean().sqrt())
    if scale == 0:
        raise BadInput("All activations are 0: check the layer they were collected from.")
    return scale if recipe.normalise else 1.0


def _check(
    rows: Stream, jobs: list[Job], recipe: Recipe, held_out: Tensor | None, starts: Sequence[SAE] | None
) -> None:
    if not jobs:
        raise BadInput("There is no SAE to train: give at least one sparsity.")
    if len(set(jobs)) < len(jobs) and starts is None:
        twice = next(job for job in jobs if jobs.count(job) > 1)
        raise BadInput(f"{twice.variant} at {twice.sparsity_name} = {twice.sparsity:g} is asked for twice.")
    for job in jobs:
        job.config(rows.d)
    if rows.n < recipe.batch_size:
        raise BadInput(f"There are {rows.n} tokens, fewer than one batch of {recipe.batch_size}; lower the batch size.")
    if held_out is not None and (held_out.ndim != 2 or held_out.shape[1] != rows.d or not len(held_out)):
        raise BadInput(
            f"The held-out activations have shape {tuple(held_out.shape)}, but training reads width {rows.d}: "
            "collect both from the same model and layer."
        )
