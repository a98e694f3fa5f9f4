"""LocA-SAE computed: trained as released and corrected, and the ablations that say what its grouping is worth."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repro.base.config import Grouping
from repro.base.errors import BadInput
from repro.base.files import digest
from repro.evaluate import evaluate_sae
from repro.loca.grouped import LocaJob
from repro.loca.variance import angular_variance, corrected_variance, group, group_ks, ranking, regroup
from repro.sections.scales import Scale
from repro.sections.setup import Prepared, options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame
from repro.training.recipe import Job, Recipe

if TYPE_CHECKING:
    from repro.sae import SAE

BATCHES, BATCH = 32, 2048  # what angular variance is measured on; the paper: at most 200 batches
USAGE_WEIGHT = 1e-3
SEEDS = {"tiny": 3, "small": 3}  # how many seeds `run` takes by default; 1 at other scales


@dataclass(frozen=True)
class Form:
    """One way to go on from a trained Top-K SAE; each but the first three differs from `loca` in one thing."""

    label: str
    groups: Grouping = "angular_variance"
    equal: bool = False
    train: bool = True
    usage: bool = True


FORMS: dict[str, Form] = {
    "topk_start": Form("Top-K, phase 1 alone", "none", train=False),
    "topk": Form("Top-K, trained on", "none"),
    "loca": Form("LocA, corrected"),
    "untrained": Form("… without phase 4", train=False),
    "random": Form("… random groups", "random"),
    "frequency": Form("… groups by frequency", "frequency"),
    "equal": Form("… equal budgets", equal=True),
    "no_penalty": Form("… no usage penalty", usage=False),
}
FORM_NAMES = {name: form.label for name, form in FORMS.items()} | {"as_released": "LocA, as released"}


def latents(scale: Scale) -> DataFrame:
    """Angular variance of every latent of the sparsest Top-K SAE by both rules, with its firing rate and group."""
    started = time.perf_counter()
    ready = prepare(scale)
    rows: list[dict[str, Any]] = []
    for k in scale.ks[:1]:
        sae = _first(ready, scale, k, scale.seed)
        released, count = angular_variance(sae, _blocks(ready), "as_released")
        corrected = corrected_variance(released, count)
        member = torch.empty(sae.config.m, dtype=torch.long)
        for g, members in enumerate(group(corrected.cpu())):
            member[members] = g
        tokens = min(ready.rows.n, BATCHES * BATCH)
        for j in range(sae.config.m):
            rows.append(
                {
                    "k": k,
                    "latent": j,
                    "AV_released": float(released[j]),
                    "AV_corrected": float(corrected[j]),
                    "firing_rate": float(count[j]) / tokens,
                    "group": int(member[j]),
                }
            )
    return save_table("loca_latents", scale, rows, time.perf_counter() - started)


def run(
    scale: Scale,
    seeds: tuple[int, ...] | None = None,
    ks: tuple[int, ...] | None = None,
    fine_tune_steps: int | None = None,
) -> DataFrame:
    """Every form x k x seed: amortized metrics, corrected protocol; as_released also under its own.

    seeds: of weights, data order and random groups; three on tiny and small, one elsewhere, if not given. ks: the
    smallest of the scale if not given. fine_tune_steps: extra steps of every trained form; a quarter of the scale's if
    not given.
    """
    started = time.perf_counter()
    ready = prepare(scale)
    count = SEEDS.get(scale.name, 1)
    seeds = seeds if seeds is not None else tuple(range(scale.seed, scale.seed + count))
    ks = ks or scale.ks[:1]
    if not set(ks) <= set(scale.ks):
        raise BadInput(f"The scale has Top-K SAEs at k = {scale.ks}, not at all of {ks}: choose among those.")
    steps = fine_tune_steps or max(1, scale.steps // 4)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for k, form, sae, trained_for in _trained(ready, scale, ks, seed, steps):
            protocols = ("corrected", "as_released") if form == "as_released" else ("corrected",)
            for protocol in protocols:
                rows.append(
                    _row(ready, scale, sae, protocol) | {"form": form, "k": k, "seed": seed, "extra_steps": trained_for}
                )
    extra = {
        "seeds": list(seeds),
        "fine_tune_steps": steps,
        "forms": {n: dataclasses.asdict(f) for n, f in FORMS.items()},
    }
    return save_table("loca_ablations", scale, rows, time.perf_counter() - started, **extra)


def _trained(
    ready: Prepared, scale: Scale, ks: tuple[int, ...], seed: int, steps: int
) -> list[tuple[int, str, SAE, int]]:
    """(k, form, SAE, extra steps) of one seed; all forms that are trained see the same batches, each read once."""
    from repro.checkpoints import load_sae
    from repro.training.files import weights_digest
    from repro.training.train import train

    starts: list[tuple[int, str, SAE, LocaJob | None]] = []
    for k in ks:
        first = _first(ready, scale, k, seed)
        variance, count = angular_variance(first, _blocks(ready))
        for name, form in FORMS.items():
            start, job = first, LocaJob("topk", k, scale.m, seed)
            if form.groups != "none":
                cut = group(ranking(form.groups, variance, count, seed))
                budgets = group_ks(k, equal=form.equal)
                start = regroup(first, cut, budgets)
                job = LocaJob(
                    "loca",
                    k,
                    scale.m,
                    seed,
                    group_sizes=tuple(len(g) for g in cut),
                    group_ks=budgets,
                    usage_weight=USAGE_WEIGHT if form.usage else 0.0,
                    usage_start=min(1000, steps // 5),
                )
            starts.append((k, name, start, job if form.train else None))
    begin = _recipe(scale, scale.steps, seed)
    recipe = _recipe(scale, steps, seed, lr=begin.lr / 2)
    pairs = [(start, job) for _, _, start, job in starts if job is not None]
    out = ready.folder / f"loca-{digest([(weights_digest(start), job) for start, job in pairs], recipe)}"
    where = out, scale.model, _layer(ready), ready.device
    begins, held_out = [start for start, _ in pairs], ready.data.tokens.x[:]
    folders = iter(train(ready.rows, [job for _, job in pairs], recipe, *where, starts=begins, held_out=held_out))
    saes = [
        (k, name, start, 0) if job is None else (k, name, load_sae(next(folders)), steps)
        for k, name, start, job in starts
    ]
    return saes + [_released(ready, scale, k, seed) for k in ks]


def _released(ready: Prepared, scale: Scale, k: int, seed: int) -> tuple[int, str, SAE, int]:
    """Trained by the released code's rules from scratch; its budgets add up to 1.3 k, as 26 to 20."""
    import json

    from repro.checkpoints import load_sae
    from repro.loca.phases import Loca, train_loca

    method = Loca(
        setting="as_released",
        m=scale.m,
        k=k,
        group_ks=group_ks(round(1.3 * k)),
        steps=scale.steps,
        batch_size=scale.batch_size,
        variance_batches=BATCHES,
        seed=seed,
    )
    out = ready.folder / f"loca-released-{digest(method, method.first_job(), method.recipe(1))}"
    train_loca(ready.rows, method, out, scale.model, _layer(ready), ready.device, progress=False)
    steps = json.loads((out / "eval_results.json").read_text())["steps"]
    return k, "as_released", load_sae(out), steps


def _row(ready: Prepared, scale: Scale, sae: SAE, protocol: str) -> dict[str, Any]:
    from repro.loca.files import converted

    x = ready.data.tokens.x[:1000].to(ready.device)
    sae = (converted(sae) if protocol == "as_released" else sae).to(ready.device)
    encode = min(_seconds(sae, x) for _ in range(5))
    settings = options(scale, modes=("amortized",), protocols=(protocol,), gap=False)
    (row,) = evaluate_sae(sae, ready.data, settings)
    return row | {"encode_us_per_token": round(1e6 * encode / len(x), 2)}


@torch.no_grad()
def _seconds(sae: SAE, x: torch.Tensor) -> float:
    began = time.perf_counter()
    sae.encode(x)
    return time.perf_counter() - began


def _first(ready: Prepared, scale: Scale, k: int, seed: int) -> SAE:
    """The Top-K SAE of phase 1: the scale's own, or one of another seed, trained alike."""
    from repro.checkpoints import load_sae
    from repro.training.train import train

    if seed == scale.seed:
        path = next(e["path"] for e in ready.finals("topk") if e["sparsity"] == k)
    else:
        recipe = _recipe(scale, scale.steps, seed)
        job = Job("topk", k, scale.m, seed)
        out = ready.folder / f"loca-first-{digest(job, recipe)}"
        (path,) = train(ready.rows, [job], recipe, out, scale.model, _layer(ready), ready.device)
    return load_sae(path).to(ready.device)


def _recipe(scale: Scale, steps: int, seed: int, **given: Any) -> Recipe:
    if scale.lr is not None:
        given = {"lr": scale.lr} | given
    return Recipe.scaled(steps, scale.batch_size, seed=seed, checkpoints=(1.0,), **given)


def _blocks(ready: Prepared) -> Any:
    from itertools import islice

    return (x.to(ready.device) for x in islice(ready.rows.blocks(BATCH), BATCHES))


def _layer(ready: Prepared) -> int | None:
    return ready.rows.store.meta.get("layer")
