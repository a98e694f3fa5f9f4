"""The data of every section: activations, labelled activations and trained SAEs, cached by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.base.config import DatasetConfig, MetricsConfig, ModelConfig, RunConfig
from repro.base.files import cache_dir, digest
from repro.base.machine import pick_device
from repro.evaluate import EvalData, EvalOptions, open_data
from repro.sections.scales import Scale

LABELLED_LENGTH = 64  # tokens of a labelled document that are kept
DOCUMENT = 2_000  # spare tokens at least: the document in which training ends is not evaluated
TOKENS_A_GLOSS = 40  # upper bound of the mean length of the bundled glosses


@dataclass(frozen=True)
class Prepared:
    """Everything the sections read."""

    data: EvalData
    """Evaluation tokens, of documents of which nothing was trained on, and labelled documents."""
    checkpoints: list[dict[str, Any]]
    """Final and intermediate checkpoints: path, variant, trainer, step, sparsity, final."""
    rows: Any
    """The training tokens (`activations.store.Rows`)."""
    folder: Path
    """Where all of it lies."""
    device: str

    def finals(self, variant: str | None = None) -> list[dict[str, Any]]:
        """Checkpoints at the end of training, of one variant if given."""
        return [c for c in self.checkpoints if c["final"] and variant in (None, c["variant"])]


def labelled_text(scale: Scale, documents: int) -> DatasetConfig:
    """The labelled documents of a scale, one a sequence."""
    return DatasetConfig(
        name=scale.labelled,
        split="all",
        label_column="label",
        max_tokens=documents * (TOKENS_A_GLOSS if scale.labelled == "tiny-labels" else LABELLED_LENGTH),
        seq_len=LABELLED_LENGTH,
        packing=False,
    )


def grid_of(scale: Scale) -> Mapping[str, tuple[float, ...]]:
    """Sparsities by variant of the SAEs that a scale trains."""
    return scale.grid or {"standard": scale.l1, "topk": scale.ks, "batch_topk": scale.ks}


def model_of(scale: Scale) -> ModelConfig:
    """The language model of a scale, with its layer and its arithmetic."""
    return ModelConfig(name=scale.model, layer_index=scale.layer, dtype=scale.dtype)


def text_of(scale: Scale, evaluated: int) -> DatasetConfig:
    """Text for training and for so many tokens behind it, with what exclusions and the last document take."""
    used = scale.train_tokens + evaluated
    spare = 1.02 if scale.max_norm_ratio is None else 1.05  # excluded positions
    tokens = max(int(used * spare), used + DOCUMENT) + scale.seq_len
    return DatasetConfig(name=scale.dataset, max_tokens=tokens, seq_len=scale.seq_len)


def trained_on(docs: np.ndarray, rows: Any) -> int:
    """How many tokens of these documents [n] come before the end of the one in which training on `rows` ended.

    What is behind them is held out: the rest of that document is not.
    """
    return int((docs <= rows.docs[-1]).sum())


def activations(scale: Scale) -> tuple[Path, Path, Path]:
    """Collect (or find) the activations of a scale: (folder, store of general text, store of labelled text)."""
    from repro.activations.collect import collect

    model = model_of(scale)
    key = digest(
        model, scale.dataset, scale.labelled, scale.train_tokens, scale.eval_tokens, scale.label_docs, scale.seq_len
    )
    folder = cache_dir() / "experiments" / f"{scale.name}-{key}"
    text, labelled = text_of(scale, scale.eval_tokens), labelled_text(scale, scale.label_docs)
    stores = [
        collect(RunConfig(output_dir=str(folder / sub), model=model, dataset=data, device=scale.device), quiet=True)
        for sub, data in (("text", text), ("labelled", labelled))
    ]
    return folder, stores[0], stores[1]


def prepare(scale: Scale) -> Prepared:
    """Activations, SAEs and evaluation data of a scale; what exists is not made again, nor by two at a time."""
    from filelock import FileLock

    lock = cache_dir() / "locks" / f"prepare-{scale.name}-{digest(scale)}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        return _prepare(scale)


def _prepare(scale: Scale) -> Prepared:
    from repro.activations.rows import Rows
    from repro.activations.store import open_store
    from repro.training.recipe import Job, Recipe
    from repro.training.train import train

    device = pick_device(scale.device)
    folder, text, labelled = activations(scale)
    metrics = MetricsConfig(max_tokens=scale.eval_tokens, max_norm_ratio=scale.max_norm_ratio)
    store = open_store(text)
    usable = store.select(metrics.exclude, metrics.max_norm_ratio)
    train_tokens = min(scale.train_tokens, usable.n - scale.eval_tokens)
    rows = Rows(store, usable.index[:train_tokens], usable.describe() | {"training_tokens": train_tokens})
    jobs = [Job(v, sparsity, scale.m, scale.seed) for v, values in grid_of(scale).items() for sparsity in values]
    lr = {} if scale.lr is None else {"lr": scale.lr}
    recipe = Recipe.scaled(scale.steps, scale.batch_size, seed=scale.seed, **lr)
    saes = folder / f"saes-{digest(jobs, recipe)}"
    skip = trained_on(usable.docs, rows)
    held_out = Rows(store, usable.index[skip : skip + scale.eval_tokens], {}).take(scale.eval_tokens).x
    layer = store.meta.get("layer")
    folders = train(rows, jobs, recipe, saes, scale.model, layer, device, held_out=held_out)
    data = open_data(text, metrics, labelled, scale.label_docs, skip=skip)
    checkpoints = []
    for job, path in zip(jobs, folders, strict=True):
        facts = {"variant": job.variant, "trainer": int(path.name.rpartition("_")[2]), "sparsity": job.sparsity}
        files = [*(path / "checkpoints").glob("ae_*.pt"), *(path / "checkpoints").glob("sae_*.safetensors")]
        saved = {int(file.stem.rpartition("_")[2]): file for file in files}
        for step, file in sorted(saved.items()):
            if step < scale.steps:
                checkpoints.append({**facts, "path": str(file), "step": step, "final": False})
        checkpoints.append({**facts, "path": str(path), "step": scale.steps, "final": True})
    return Prepared(data, checkpoints, rows, folder, device)


def options(scale: Scale, **changes: Any) -> EvalOptions:
    """Evaluation options of a scale; the comparison scripts' lambda target and density unless changed."""
    import dataclasses

    base = EvalOptions(
        released_tokens=scale.released_tokens,
        tol=scale.tol,
        seed=scale.seed,
        batch_evaluation=False,
    )
    return dataclasses.replace(base, **changes)
