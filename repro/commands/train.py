"""`repro train`: SAEs of one or more variants and sparsities on an activation file, in dictionary_learning's layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from repro.activations.held_out import open_meter
from repro.activations.language_models.loss import LossMeter
from repro.activations.stage import staged
from repro.activations.store import Rows, open_store
from repro.base.config import Device
from repro.base.errors import BadInput, TasksFailed
from repro.base.machine import pick_device
from repro.checkpoints import load_sae
from repro.commands.training_flags import TrainConfig
from repro.jobs.run import fan_out
from repro.jobs.task import Task
from repro.sae import SAE
from repro.training.encoders import beginning, encoder_job, form_of
from repro.training.language import loss_recovered
from repro.training.recipe import SAEBENCH_STEPS, Job, Recipe, sparsity_grid
from repro.training.train import alone, train
from repro.training.watchers import watcher

SAMPLE = 4096  # tokens on which the L0 of an SAE is measured whose decoder is frozen
LIBRARIES, DENSE_BATCHES = 2**28, 16  # of `training_bytes`


def run(config: TrainConfig, progress: bool = True) -> list[Path]:
    """Train what the config says -> the folders of the SAEs. Raises BadInput before training where it cannot.

    With several workers every SAE is a task of its own, which reads the same batches: its weights are those of a run
    together, to the bit on a CPU where an SAE has as many threads there (`training.train` shares them out). Raises
    TasksFailed when the others have ended.
    """
    if not config.fanout.apart:
        return train_some(config, progress=progress)
    paths = train_some(config, (), progress=False)  # a mistake is told before any worker starts
    names = [f"{path.parent.parent.name} {path.name}" for path in paths]
    takes = memory_of(config)
    tasks = [Task(name.replace(" ", "-"), name, _worker, (config, i), takes) for i, name in enumerate(names)]
    with alone(paths):
        failed = fan_out(tasks, config.fanout, config.output_dir, progress)
    if failed:
        reasons = "; ".join(f"{task.name}: {failed[task.key]}" for task in tasks if task.key in failed)
        raise TasksFailed(f"{len(failed)} of {len(tasks)} SAEs were not trained. {reasons}")
    return paths


def memory_of(config: TrainConfig) -> int:
    """Bytes that training one SAE on a CPU takes beyond a process that has only started; 0 = unknown, on a GPU.

    Weights, gradients and Adam's two moments, and batches of dense codes.
    """
    if config.fanout.gpus or pick_device(config.device) != "cpu":
        return 0
    store = open_store(config.acts)
    filled = with_defaults(config, store.mask.size, store.d)
    return training_bytes(store.d, filled.m or 0, filled.batch_size or 0)


def training_bytes(d: int, m: int, batch: int) -> int:
    """Bytes of one SAE in training beyond its process; the constants are held to measured peaks by a test."""
    return LIBRARIES + 4 * 4 * 2 * d * m + DENSE_BATCHES * 4 * batch * m


def _worker(config: TrainConfig, i: int) -> None:
    train_some(config, (i,), progress=False)


def train_some(config: TrainConfig, only: tuple[int, ...] | None = None, progress: bool = True) -> list[Path]:
    """Train some jobs of a config, by index, in this process (all if not given) -> the folders of all."""
    watch = watcher(config.log_to) if config.log_to else None
    stage = config.fanout.stage if only is None or only else None
    store = open_store(staged(config.acts, stage) if stage else config.acts)
    rows = store.select(config.exclude, config.max_norm_ratio)
    part, rest = split(rows, config.train_tokens, config.held_out_tokens)
    config = with_defaults(config, part.n, store.d)
    known = store.meta.get("model", {})
    frozen = config.frozen_decoder is not None
    asked, starts = on_decoder(config, part) if frozen else (jobs(config, store.d), None)
    return train(
        part,
        asked,
        recipe(config),
        config.output_dir,
        config.model_name if config.model_name is not None else known.get("name", ""),
        config.layer if config.layer is not None else store.meta.get("layer"),
        config.device,
        only=only,
        held_out=rest.take(rest.n).x if rest.n else None,
        starts=starts,
        language=language(rows, part.n, config.ce_tokens, config.device),
        state_every=config.state_every,
        watch=watch,
        progress=progress,
        site=store.meta.get("site", "resid_post"),
    )


def split(rows: Rows, train_tokens: int | None, held_out_tokens: int) -> tuple[Rows, Rows]:
    """The first tokens for training, and the held-out ones behind them. BadInput for more than there are."""
    held = min(held_out_tokens, rows.n // 10)
    tokens = rows.n - held if train_tokens is None else train_tokens
    if not 0 < tokens <= rows.n:
        raise BadInput(
            f"train_tokens is {tokens}, but {rows.store.path} has {rows.n} usable tokens; ask for at most those."
        )
    about = rows.describe() | {"training_tokens": tokens}
    return (
        dataclasses.replace(rows, index=rows.index[:tokens], description=about),
        dataclasses.replace(rows, index=rows.index[tokens : tokens + held]),
    )


def with_defaults(config: TrainConfig, tokens: int, d: int) -> TrainConfig:
    """The config with m, steps and batch_size filled in, from the data they are for."""
    batch = config.batch_size or min(2048 if tokens >= 1_000_000 else 1024, tokens)
    steps = config.steps or min(max(400, tokens // batch), SAEBENCH_STEPS)
    return dataclasses.replace(config, m=config.m or (4096 if d >= 512 else 2 * d), steps=steps, batch_size=batch)


def language(rows: Rows, skip: int, tokens: int, device: Device) -> Callable[[SAE], dict[str, Any]] | None:
    """What the language model's loss on the text behind the first `skip` rows adds to eval_results.json, lazily.

    loss_note says why it cannot be had; None where the activations do not say their tokens, or none are asked for.
    """
    if rows.store.tokens is None or tokens < 1:
        return None
    behind = dataclasses.replace(rows, index=rows.index[skip:])

    @cache
    def meter() -> LossMeter | str:
        try:
            return open_meter(behind, tokens, device)
        except BadInput as error:
            return str(error)

    def results(sae: SAE) -> dict[str, Any]:
        opened = meter()
        return {"loss_note": opened} if isinstance(opened, str) else loss_recovered(opened, sae)

    return results


def jobs(config: TrainConfig, d: int) -> list[Job]:
    """The SAEs of a config: variants x sparsities x seeds."""
    if config.imitate or config.encoder != ("linear",):
        raise BadInput("--encoder and --imitate are for the decoder of an SAE: give it with --frozen-decoder.")
    if not config.variant:
        raise BadInput("No variant to train: give --variant one or more names.")
    if config.sparsity is not None and not config.sparsity:
        raise BadInput("The list of sparsities is empty: give at least one, or leave it out for six of SAEBench's.")
    m = config.m or 4096
    kinds = {Job(v, 1, m).sparsity_name for v in config.variant}
    if config.sparsity is not None and "l1_penalty" in kinds and len(kinds) > 1:
        raise BadInput(
            f"--sparsity would mean {' and '.join(sorted(kinds))} at once: train {', '.join(config.variant)} in two "
            "commands, or leave it out for SAEBench's values."
        )
    return [
        Job(variant, sparsity, m, seed)
        for variant in config.variant
        for sparsity in (config.sparsity or sparsity_grid(variant, m, d))
        for seed in config.seeds
    ]


def on_decoder(config: TrainConfig, rows: Rows) -> tuple[list[Job], list[SAE]]:
    """Encoders for the decoder of an SAE, and where each begins: encoders x steps x sparsities x seeds.

    Its mean L0 is their k where no sparsity is given. Raises BadInput for an SAE of another width, or that has no
    decoder to be frozen.
    """
    sae = load_sae(str(config.frozen_decoder))
    if sae.config.d != rows.d:
        raise BadInput(
            f"The SAE in {config.frozen_decoder} reads activations of width {sae.config.d}, but {rows.store.path} has "
            f"width {rows.d}: give the activations that it was trained on."
        )
    x = rows.take(min(SAMPLE, rows.n), seed=config.data_seed).x
    ks = config.sparsity or (max(1.0, round(float(sae.encode_sparse(x).l0.double().mean()))),)
    forms = [
        form_of(name, steps)
        for name in dict.fromkeys(config.encoder)
        for steps in (config.steps_unrolled if name == "lista" else (None,))
    ]
    asked = [encoder_job(form, sae, k, seed, config.imitate) for form in forms for k in ks for seed in config.seeds]
    return list(asked), [beginning(job, sae, x) for job in asked]


def recipe(config: TrainConfig) -> Recipe:
    """The recipe of a config: SAEBench's, scaled to its length."""
    given = {"seed": config.data_seed} | ({} if config.lr is None else {"lr": config.lr})
    return Recipe.scaled(config.steps or 2000, config.batch_size or 2048, **given)
