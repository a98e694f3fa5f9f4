"""LocA-SAE from end to end: a Top-K SAE, its angular variance, groups, fine-tuning; as released or corrected."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.base.files import digest, write_json
from repro.base.lock import only_one
from repro.base.machine import pick_device
from repro.checkpoints import load_sae
from repro.loca.files import write_release
from repro.loca.grouped import LocaJob
from repro.loca.method import Method
from repro.loca.released import ReleasedJob
from repro.loca.variance import GROUP_KS, angular_variance, group, group_ks, ranking, regroup
from repro.sae import Source
from repro.training.files import refuse_other
from repro.training.recipe import Recipe
from repro.training.train import Language, Stream, eval_results, train

RELEASED_LR = 3e-4
USAGE_START = 1000  # steps of phase 4 before the usage penalty


@dataclass(frozen=True)
class Loca(Method):
    """What is trained in the four phases, with the paper's sizes."""

    m: int = 16_384
    steps: int = 50_000
    batch_size: int = 2048
    target_loss: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.m:
            raise BadInput(f"k is {self.k}; it must lie between 1 and the number of latents, {self.m}.")
        if self.variance_batches < 1:
            raise BadInput(f"variance_batches is {self.variance_batches}; give at least 1.")
        ks = self.budgets()
        if len(ks) != self.n_groups:
            raise BadInput(f"There are {len(ks)} group_ks for {self.n_groups} groups: give one k a group.")
        asked = self.k if self.total_k is None else self.total_k
        if sum(ks) != asked and (self.setting == "corrected" or self.total_k is not None):
            raise BadInput(
                f"group_ks {ks} add up to {sum(ks)}, not to {asked}: change them, or declare the difference with "
                f"total_k {sum(ks)}."
            )
        if self.groups != "none":
            self.grouped_job([torch.arange(n) for n in self._sizes()])

    @property
    def released(self) -> bool:
        """True for the released code's behaviour."""
        return self.setting == "as_released"

    def budgets(self) -> tuple[int, ...]:
        """k of each group."""
        if self.group_ks is not None:
            return tuple(self.group_ks)
        if self.released and self.n_groups == len(GROUP_KS) and not self.equal_budgets and self.total_k is None:
            return GROUP_KS
        return group_ks(self.total_k or self.k, self.n_groups, self.equal_budgets)

    def cut(self, score: Tensor) -> list[Tensor]:
        """Groups of latents by falling score."""
        return group(score, self.n_groups, uneven=not self.released)

    def first_job(self) -> LocaJob:
        """Phase 1."""
        if self.released:
            return ReleasedJob("topk", self.k, self.m, self.seed, target_loss=self.target_loss)
        return LocaJob("topk", self.k, self.m, self.seed, normalisation="unit_norm", stop_fve=self.stop_fve)

    def grouped_job(self, groups: list[Tensor], normalisation: Literal["none", "unit_norm"] = "unit_norm") -> LocaJob:
        """Phase 4."""
        ks = self.budgets()
        options: dict[str, Any] = {
            "group_sizes": tuple(len(g) for g in groups),
            "group_ks": ks,
            "usage_weight": self.usage_weight,
            "usage_start": min(USAGE_START, self._second_steps() // 5),
        }
        if self.released:
            return ReleasedJob("loca", sum(ks), self.m, self.seed, target_loss=0.7 * self.target_loss, **options)
        options |= {"normalisation": normalisation, "stop_fve": self.stop_fve}
        return LocaJob("loca", sum(ks), self.m, self.seed, **options)

    def recipe(self, phase: Literal[1, 4]) -> Recipe:
        """Recipe of a phase: no trajectory; phase 4 at half the learning rate of phase 1."""
        steps = self.steps if phase == 1 else self._second_steps()
        options: dict[str, Any] = {"checkpoints": (1.0,), "normalise": False, "seed": self.seed}
        lr = self.lr or (RELEASED_LR if self.released else Recipe.scaled(self.steps, self.batch_size).lr)
        options["lr"] = lr if phase == 1 else lr / 2
        if self.released:
            options |= {"warmup_steps": 0, "decay_start": 1.0}
        return Recipe.scaled(steps, self.batch_size, **options)

    def _second_steps(self) -> int:
        return self.fine_tune_steps or self.steps

    def _sizes(self) -> list[int]:
        return [len(g) for g in self.cut(torch.zeros(self.m))]


@dataclass(frozen=True)
class UnitRows:
    """A stream whose tokens are divided by their norms, as LocA-SAE is trained."""

    rows: Stream

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.rows.n

    @property
    def d(self) -> int:
        """Their width."""
        return self.rows.d

    def batches(self, batch_size: int, seed: int, start_batch: int = 0) -> Iterator[Tensor]:
        """Shuffled batches [batch_size, d] of unit-norm tokens."""
        return (unit(x) for x in self.rows.batches(batch_size, seed, start_batch))

    def take(self, n: int, seed: int | None = None) -> Any:
        """A sample, as the stream below takes it."""
        batch = self.rows.take(n, seed)
        return dataclasses.replace(batch, x=unit(batch.x))

    def describe(self) -> dict[str, Any]:
        """Description of the tokens."""
        return self.rows.describe() | {"token_norm": 1}


def unit(x: Tensor) -> Tensor:
    """Rows of norm 1."""
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def train_loca(
    rows: Stream,
    method: Loca,
    output_dir: str | Path,
    lm_name: str = "",
    layer: int | None = None,
    device: str = "auto",
    *,
    held_out: Tensor | None = None,
    language: Language | None = None,
    state_every: int | None = None,
    progress: bool = True,
) -> Path:
    """The four phases -> output_dir with the released files, sae.safetensors and eval_results.json.

    Killed and started again, it goes on from the last saved state and ends in the same bits; phases/ keeps the two
    training runs. Raises BadInput before training for a method that cannot work or a folder that holds another run.
    """
    with only_one(output_dir, "repro loca train"):
        out = Path(output_dir)
        stream = UnitRows(rows)
        config = _config(method, stream, lm_name, layer)
        refuse_other(out, config)
        write_json(out / "config.json", config)
        where = pick_device(device)
        options: dict[str, Any] = {"held_out": held_out, "state_every": state_every, "progress": progress}

        def phase(number: Literal[1, 4], job: LocaJob, **more: Any) -> Path:
            folder, recipe = out / "phases" / str(number), method.recipe(number)
            return train(stream, [job], recipe, folder, lm_name, layer, device, **options, **more)[0]

        first = load_sae(phase(1, method.first_job())).to(where)
        batches = min(method.variance_batches, -(-rows.n // method.batch_size))
        shuffled = islice(stream.batches(min(method.batch_size, rows.n), method.seed), batches)
        variance, count = (t.cpu() for t in angular_variance(first, (x.to(where) for x in shuffled), method.setting))
        start, job, groups = first, method.first_job(), [torch.arange(method.m)]
        if method.groups != "none":
            groups = method.cut(ranking(method.groups, variance, count, method.seed))
            start, job = regroup(first, groups, method.budgets()), method.grouped_job(groups)
        if method.fine_tune:
            folder = phase(4, job, starts=[start], language=language)
            final = load_sae(folder).to(where)
            results = json.loads((folder / "eval_results.json").read_text())
        else:
            final = start
            results = eval_results(final, stream, method.seed, held_out, language, steps=0)
        if method.groups == "none":
            final = regroup(final, groups, (method.k,))
        extra = {"setting": method.setting, "groups": method.groups}
        k = final.config.k
        final.source = Source(family="loca", layer=layer, lm_name=lm_name, sparsity=float(k), k=k, extra=extra)
        write_release(out, first, final, groups, variance)
        return write_json(out / "eval_results.json", results).parent


def _config(method: Loca, stream: UnitRows, lm_name: str, layer: int | None) -> dict[str, Any]:
    """config.json: the released keys, and under repro what decides the weights."""
    ks = (method.k,) if method.groups == "none" else method.budgets()
    second = method.recipe(4)
    identity = dataclasses.asdict(method) | {"data": stream.describe(), "lm_name": lm_name, "layer": layer}
    identity = json.loads(json.dumps(identity))
    return {
        "model_name": lm_name,
        "target_layer": layer,
        "input_dim": stream.d,
        "dict_size": method.m,
        "num_groups": len(ks),
        "global_k": method.k,
        "group_ks": list(ks),
        "lr": method.recipe(1).lr,
        "fine_tune_lr": second.lr,
        "batch_size": method.batch_size,
        "max_steps": method.steps,
        "target_loss": method.target_loss,
        "seed": method.seed,
        "repro": identity | {"digest": digest(identity)},
    }
