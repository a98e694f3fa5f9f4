"""`repro train`: SAEs of one or more variants and sparsities on an activation file, in dictionary_learning's layout."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from repro.activations.store import EXCLUDE, open_store
from repro.config import Device
from repro.errors import BadInput
from repro.training.recipe import Job, Recipe, sparsity_grid
from repro.training.train import train


@dataclass(frozen=True)
class TrainConfig:
    """What `repro train` trains, on what, and for how long. Every combination is trained on the same batches."""

    acts: str
    """Activations: a .npy file of `repro collect` (or any [n, d] or [sequences, seq_len, d]), or its folder."""
    output_dir: str
    """Folder for {variant}/resid_post_layer_{layer}/trainer_{i}."""
    variant: tuple[str, ...] = ("batch_topk",)
    """standard, topk, batch_topk, matryoshka_batch_topk, gated, jumprelu."""
    sparsity: tuple[float, ...] | None = None
    """k (top-k families), L1 coefficient (standard, gated) or target L0 (jumprelu); six of SAEBench's if not given."""
    m: int = 4096
    """Latents of every SAE."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 2048
    """Tokens a step."""
    lr: float | None = None
    """Peak learning rate; 3e-4 at SAEBench's length, growing as training gets shorter, if not given."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights; one SAE each."""
    data_seed: int = 0
    """Seed of the order of the tokens."""
    train_tokens: int | None = None
    """Tokens to train on, the first of the file; all but the held-out ones if not given."""
    held_out_tokens: int = 8192
    """Tokens after the training tokens that eval_results.json is computed on (at most a tenth of the file)."""
    exclude: tuple[str, ...] = EXCLUDE
    """Token positions that are left out, of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Leave out tokens whose norm exceeds this many medians."""
    model_name: str | None = None
    """Language model, for the records; the activation file's if not given."""
    layer: int | None = None
    """Layer, for the records and the folder; the activation file's if not given."""
    device: Device = "auto"
    """auto = cuda where there is one."""
    state_every: int | None = None
    """Steps between saved states, from which an interrupted run goes on; a tenth of the run, at most 1,000."""


def run(config: TrainConfig, progress: bool = True) -> list[Path]:
    """Train what the config says -> the folders of the SAEs. Raises BadInput before training where it cannot."""
    store = open_store(config.acts)
    rows = store.select(config.exclude, config.max_norm_ratio)
    held = min(config.held_out_tokens, rows.n // 10)
    tokens = rows.n - held if config.train_tokens is None else config.train_tokens
    if not 0 < tokens <= rows.n:
        raise BadInput(
            f"train_tokens is {tokens}, but {config.acts} has {rows.n} usable tokens; ask for at most those."
        )
    part = dataclasses.replace(
        rows, index=rows.index[:tokens], description=rows.describe() | {"training_tokens": tokens}
    )
    rest = dataclasses.replace(rows, index=rows.index[tokens : tokens + held])
    known = store.meta.get("model", {})
    return train(
        part,
        jobs(config, store.d),
        recipe(config),
        config.output_dir,
        config.model_name if config.model_name is not None else known.get("name", ""),
        config.layer if config.layer is not None else store.meta.get("layer"),
        config.device,
        held_out=rest.take(held).x if rest.n else None,
        state_every=config.state_every,
        progress=progress,
    )


def jobs(config: TrainConfig, d: int) -> list[Job]:
    """The SAEs of a config: variants x sparsities x seeds."""
    if not config.variant:
        raise BadInput("No variant to train: give --variant one or more names.")
    if config.sparsity is not None and not config.sparsity:
        raise BadInput("The list of sparsities is empty: give at least one, or leave it out for six of SAEBench's.")
    kinds = {Job(v, 1, config.m).sparsity_name for v in config.variant}
    if config.sparsity is not None and "l1_penalty" in kinds and len(kinds) > 1:
        raise BadInput(
            f"--sparsity would mean {' and '.join(sorted(kinds))} at once: train {', '.join(config.variant)} in two "
            "commands, or leave it out for SAEBench's values."
        )
    return [
        Job(variant, sparsity, config.m, seed)
        for variant in config.variant
        for sparsity in (config.sparsity or sparsity_grid(variant, config.m, d))
        for seed in config.seeds
    ]


def recipe(config: TrainConfig) -> Recipe:
    """The recipe of a config: SAEBench's, scaled to its length."""
    given = {"seed": config.data_seed} | ({} if config.lr is None else {"lr": config.lr})
    return Recipe.scaled(config.steps, config.batch_size, **given)
