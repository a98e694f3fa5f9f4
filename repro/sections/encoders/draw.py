"""One seed of the section: its Top-K SAE, encoders on its dictionary, other dictionaries, their price and probes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.activations.language_models.loss import LossMeter
from repro.base.config import MetricsConfig, RunConfig
from repro.base.files import cache_dir, digest
from repro.evaluate import EvalData, evaluate_checkpoints, open_data
from repro.price import PriceOptions
from repro.price import price as price_of
from repro.sae import SAE
from repro.sections.encoders.names import DICTIONARIES, ENCODERS, GUESSED, PROBED
from repro.sections.scales import PRICED, Scale
from repro.sections.setup import Prepared, labelled_text, model_of, options, prepare, trained_on
from repro.training.encoders import beginning, encoder_job, form_of
from repro.training.frozen import FrozenJob
from repro.training.itda import itda
from repro.training.recipe import Job, Recipe
from repro.training.train import train

SCORES = ("F1@1", "F1@2", "dF1", "absorption")
"""Columns of the probes that the tables keep."""
SAMPLE = 500  # tokens of codes that take long
LR = 2e-3  # of encoders that begin at the SAE's own; at 7.4e-3, the recipe's for so few steps, linear ones get worse


@dataclass(frozen=True)
class Plan:
    """What is trained at a scale, beside the language model and the text."""

    k: int
    """Latents a token, of every SAE."""
    steps: int
    """Training steps of every dictionary."""
    batch: int
    """Tokens a step, of dictionaries."""
    encoder_steps: int
    """Training steps of encoders on a dictionary that stays."""
    encoder_batch: int
    """Tokens a step, of these encoders."""
    label_docs: int
    """Labelled documents of the probes."""
    without: tuple[str, ...] = ()
    """Dictionaries that are not learned, because they take k dense products a step."""


PLANS = {
    "tiny": Plan(16, 400, 1024, 400, 512, 320),
    "small": Plan(32, 400, 512, 250, 256, 400, without=("matching_pursuit",)),
}
"""Plan by scale; other scales take that of small."""


def plan_of(scale: Scale) -> Plan:
    """The plan of a scale."""
    return PLANS.get(scale.name, PLANS["small"])


class Draw:
    """One seed: its order of the text, its initial weights, its held-out documents."""

    def __init__(self, scale: Scale, index: int, tokens: int, seeds: int):
        self.plan, self.index, self.tokens = plan_of(scale), index, tokens
        setting = PRICED.get(scale.name, scale)
        spare = max(setting.eval_tokens, 2 * seeds * tokens)
        grid = {"topk": (float(self.plan.k),)}
        self.scale = dataclasses.replace(
            setting,
            seed=scale.seed + index,
            grid=grid,
            steps=self.plan.steps,
            batch_size=self.plan.batch,
            eval_tokens=spare,
        )

    @cached_property
    def ready(self) -> Prepared:
        """Activations, and the Top-K SAE that all others are compared with."""
        return prepare(self.scale)

    @cached_property
    def data(self) -> EvalData:
        """Held-out documents of this draw alone, and the labelled documents."""
        metrics = MetricsConfig(max_tokens=self.tokens, max_norm_ratio=self.scale.max_norm_ratio)
        store = self.ready.rows.store
        docs = store.select(metrics.exclude, metrics.max_norm_ratio).docs
        first = trained_on(docs, self.ready.rows)
        later = docs[min(first + self.index * self.tokens, len(docs) - 1)]
        skip = first if self.index == 0 else int((docs <= later).sum())
        return open_data(store.path, metrics, self.labelled(), self.plan.label_docs, skip, True)

    def labelled(self) -> Path:
        """Activations of the labelled documents, which all draws share."""
        from repro.activations.collect import collect

        s = self.scale
        model, text = model_of(s), labelled_text(s, self.plan.label_docs)
        folder = cache_dir() / "experiments" / f"labelled-{digest(model, text)}"
        return collect(RunConfig(output_dir=str(folder), model=model, dataset=text, device=s.device), quiet=True)

    def recipe(self, steps: int, batch: int, **given: Any) -> Recipe:
        """Training of so many steps in this draw's order of the text."""
        return Recipe.scaled(steps, batch, seed=self.scale.seed, checkpoints=(1.0,), **given)

    def fit(self, name: str, jobs: list[Job], recipe: Recipe, starts: list[SAE] | None = None) -> list[Path]:
        """Train these -> their folders; finished ones are found again."""
        of = [] if starts is None else [start.source.sha256 for start in starts]
        folder = self.ready.folder / f"{name}-{digest(jobs, recipe, of)}"
        layer = self.ready.rows.store.meta.get("layer")
        return train(self.ready.rows, jobs, recipe, folder, self.scale.model, layer, self.ready.device, starts=starts)

    def dictionaries(self) -> dict[str, Path]:
        """Name in DICTIONARIES -> the SAE of this dictionary with the encoder that was trained with it, or on it."""
        from repro.checkpoints import load_sae, save_sae

        k, m, seed = self.plan.k, self.scale.m, self.scale.seed
        trained = self.ready.finals()[0]["path"]
        start = next(c["path"] for c in self.ready.checkpoints if c["step"] == 0)
        names = [name for name in DICTIONARIES if name not in self.plan.without]
        jobs = {name: FrozenJob("topk", k, m, seed, **DICTIONARIES[name]) for name in names if DICTIONARIES[name]}
        paths = {"trained": Path(trained), "untrained": Path(start)}
        recipe = self.recipe(self.plan.steps, self.plan.batch)
        paths |= dict(zip(jobs, self.fit("dictionaries", list(jobs.values()), recipe), strict=True))
        file = self.ready.folder / f"itda-{digest(k, m, seed)}" / "sae.safetensors"
        if not file.is_file():
            save_sae(itda(self.ready.rows, m, k, seed), file)
        paths["itda"] = file
        saes = {name: load_sae(paths[name]) for name in GUESSED if name in paths}
        fits, starts = self.beginnings(list(saes.values()), [("linear", None, False)] * len(saes))
        guesses = self.fit("guesses", fits, recipe, starts)
        return {name: paths[name] for name in names} | dict(zip(saes, guesses, strict=True))

    def beginnings(self, saes: list[SAE], forms: list[tuple[str, int | None, bool]]) -> tuple[list[Job], list[SAE]]:
        """Training of encoders (form, LISTA's steps, does it imitate pursuit?) on the dictionaries of SAEs."""
        x = self.ready.rows.take(4096, seed=self.scale.seed).x
        jobs = [
            encoder_job(form_of(form, steps), sae, self.plan.k, self.scale.seed, imitates)
            for sae, (form, steps, imitates) in zip(saes, forms, strict=True)
        ]
        starts = [beginning(job, sae, x) for job, sae in zip(jobs, saes, strict=True)]
        for start, sae in zip(starts, saes, strict=True):
            start.source.sha256 = sae.source.sha256
        return list(jobs), starts

    def encoders(self) -> dict[str, Path]:
        """Name in ENCODERS -> the trained SAE's dictionary with an encoder of this form."""
        from repro.checkpoints import load_sae

        sae = load_sae(self.ready.finals()[0]["path"])
        jobs, starts = self.beginnings([sae] * len(ENCODERS), list(ENCODERS.values()))
        recipe = self.recipe(self.plan.encoder_steps, self.plan.encoder_batch, lr=LR)
        return dict(zip(ENCODERS, self.fit("encoders", jobs, recipe, starts), strict=True))

    def priced(self, path: Path, kinds: tuple[str, ...], meter: LossMeter) -> tuple[SAE, dict[str, Any]]:
        """An SAE and its price on this draw's documents."""
        from repro.checkpoints import load_sae

        sae = load_sae(path).to(meter.model.device)
        choice = PriceOptions(
            sample_tokens=SAMPLE, tol=self.scale.tol, seed=self.scale.seed, kinds=kinds, frontier=False
        )
        return sae, price_of(sae, self.data, cache_dir() / "price", choice, meter=meter)

    def probes(self, path: Path, name: str) -> dict[str, dict[str, Any]]:
        """Kind of codes -> scores of the probes."""
        o = options(self.scale, modes=tuple(PROBED.values()), protocols=("corrected",), gap=False, refit=False)
        facts = {"path": str(path), "variant": "topk", "sparsity": self.plan.k, "dictionary": name}
        rows = evaluate_checkpoints(
            [facts], self.data, o, self.ready.folder / "rows", self.ready.device, progress=False
        )
        by_mode = {row["mode"]: row for row in rows}
        return {kind: {s: by_mode[mode].get(s) for s in SCORES} for kind, mode in PROBED.items()}
