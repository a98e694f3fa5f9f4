"""Training speed of every variant against the floor of its two products and against dictionary-learning's trainers."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from repro.base.errors import BadInput
from repro.base.machine import pick_device
from repro.bench.common import Table, flag, milliseconds, peak_memory, sizes, timed
from repro.bench.kernels import gemm_rate
from repro.kernels.precision import torch_products
from repro.sae import VARIANTS
from repro.sae.matryoshka import PREFIXES
from repro.training.recipe import SPARSITY_NAME, TRAINED, Job, Recipe
from repro.training.train import evaluate
from repro.training.trainer import Trainer

LIBRARY = "dictionary_learning"
INSTALL = "pip install dictionary-learning==0.1.0 (in an environment of its own if its pins conflict)"
CLASSES = {
    "standard": ("standard", "StandardTrainerAprilUpdate"),
    "topk": ("top_k", "TopKTrainer"),
    "batch_topk": ("batch_top_k", "BatchTopKTrainer"),
    "matryoshka_batch_topk": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "gated": ("gdm", "GatedSAETrainer"),
    "jumprelu": ("jumprelu", "JumpReluTrainer"),
}
"""Module and class of the library's trainer."""
PLANTED = 40  # atoms that make up an activation
POOL = 64  # different batches at most; longer runs see them again
SUITE = tuple(name for name in TRAINED if VARIANTS[name].trainer_class)  # what dictionary_learning trains, too
HELD_OUT = 4  # batches that quality is measured on


@dataclass(frozen=True)
class Train:
    """Same data, same start, same recipe for both; tokens a second of the steps after the first few."""

    d: int = flag(576, "width of the activations")
    m: int = flag(8192, "latents")
    k: int = flag(32, "k of the top-k families, target L0 of jumprelu")
    l1: float = flag(0.04, "L1 coefficient of standard and gated")
    batch: int = flag(2048, "tokens a step")
    shapes: tuple[str, ...] = flag((), "several widths and numbers of latents, d x m, instead of --d and --m")
    batches: tuple[int, ...] = flag((), "several batch sizes instead of --batch")
    precision: Literal["float32", "tf32"] = flag("float32", "of products on a GPU, in training and in its floor")
    steps: int = flag(30, "training steps of each run")
    warmup: int = flag(5, "first steps that the clock leaves out")
    variants: tuple[str, ...] = flag(SUITE, "what to train")
    library: bool = flag(True, "time dictionary-learning too, where it is installed")
    grad_clip: float = flag(1.0, "largest gradient norm of ours; 0 = not clipped, as in the library's Gated trainer")
    seeds: tuple[int, ...] = flag((0,), "seeds of data and weights, a run each")
    device: Literal["auto", "cpu", "cuda"] = flag("cpu", "auto: the GPU where there is one")
    threads: int = flag(0, "threads of torch; as many as it takes by itself if 0")
    out: Path | None = flag(None, "folder of train.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row a variant, shape, batch size, seed and implementation to train.csv; returns its path."""
        unknown = [v for v in self.variants if v not in TRAINED]
        if unknown or not 0 <= self.warmup < self.steps:
            raise BadInput(
                f"variants must be of {', '.join(TRAINED)}, and warmup below steps: check {unknown or self.warmup}."
            )
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.library and importlib.util.find_spec(LIBRARY) is None:
            print(f"dictionary-learning is not installed, so its rows are missing: {INSTALL}.", flush=True)
        device: Any = pick_device(self.device)
        csv = Table("train", self.out, "dictionary-learning", device=device, shown=SHOWN)
        for d, m in [sizes(shape) for shape in self.shapes] or [(self.d, self.m)]:
            for batch in self.batches or (self.batch,):
                one = replace(self, d=d, m=m, batch=batch, device=device)
                with torch_products(torch.device(device), self.precision):
                    for row in one._rows():
                        csv.add(row)
        return csv.path

    def _rows(self) -> Iterator[dict[str, Any]]:
        """A row a seed, variant and implementation at one shape and batch size."""
        both = self.library and importlib.util.find_spec(LIBRARY) is not None
        for seed in self.seeds:
            batches, held_out = self._data(seed)
            for variant in self.variants:
                theirs = {}
                if both:
                    yield (theirs := self._measure(variant, seed, library_trainer, batches, held_out))
                ours = self._measure(variant, seed, our_trainer, batches, held_out)
                ratio = {"times_the_library": ours["tokens_per_s"] / theirs["tokens_per_s"]} if theirs else {}
                yield ours | ratio

    def job(self, variant: str, seed: int) -> Job:
        """The SAE to train."""
        return Job(variant, self.l1 if SPARSITY_NAME[variant] == "l1_penalty" else self.k, self.m, seed)

    def recipe(self) -> Recipe:
        """SAEBench's recipe for so many steps; dead after 10M tokens as there, so that AuxK has nothing to do."""
        given = {"checkpoints": (1.0,), "dead_after_tokens": Recipe.dead_after_tokens}
        return Recipe.scaled(self.steps, self.batch, **given, grad_clip=self.grad_clip or float("inf"))

    def _measure(
        self, variant: str, seed: int, make: Callable[..., Any], batches: list[Tensor], held_out: Tensor
    ) -> dict[str, Any]:
        update, quality = make(self, variant, seed)
        floor = two_products(batches[0], self.m, self.device)
        precision = self.precision if self.device == "cuda" else "float32"
        rate = gemm_rate((self.batch, self.d, self.m), precision, self.device)
        stream = itertools.cycle(batches)

        def train(first: int, last: int) -> None:
            for step in range(first, last):
                update(step, next(stream))

        peak_memory(reset=True, device=self.device)
        train(0, self.warmup)
        _, seconds = timed(lambda: train(self.warmup, self.steps), self.device)
        each = seconds / (self.steps - self.warmup)
        fve, l0 = quality(held_out, batches[-1])
        # A step's least work is the encoder's product and, for each nonzero of a code, four sums of rows: decoding, and
        # the gradients of code, atom and encoder.
        needed = 2 * self.batch * self.d * (self.m + 4 * l0)
        same = ("d", "m", "k", "batch", "steps", "grad_clip")
        return {
            "variant": variant,
            "implementation": "dictionary-learning" if make is library_trainer else "repro",
            **{name: getattr(self, name) for name in same},
            "seed": seed,
            "ms_per_step": 1000 * each,
            "tokens_per_s": self.batch / each,
            "two_products_tokens_per_s": self.batch / floor,
            "share_of_two_products": floor / each,
            "precision": precision,
            "product_tflops": rate / 1e12,
            "share_of_product_rate": needed / each / rate,
            "fve": fve,
            "l0": l0,
            "peak_mib": peak_memory(device=self.device),
        }

    def _data(self, seed: int) -> tuple[list[Tensor], Tensor]:
        """Batches of sparse sums of unit atoms and a mean, scaled to a mean square norm of 1; and held-out tokens."""
        g = torch.Generator(self.device).manual_seed(seed)
        given: dict[str, Any] = {"generator": g, "device": self.device}
        atoms = normalize(torch.randn(2 * self.d, self.d, **given), dim=1)
        mean = normalize(torch.randn(self.d, **given), dim=0)
        parts = []
        for _ in range(min(self.steps, POOL) + HELD_OUT):
            chosen = torch.randint(len(atoms), (self.batch, PLANTED), **given)
            values = torch.rand(self.batch, PLANTED, **given) + 0.5
            parts.append(torch.nn.functional.embedding_bag(chosen, atoms, per_sample_weights=values, mode="sum") + mean)
        scale = parts[0].square().sum(1).mean().sqrt()
        parts = [p / scale for p in parts]
        return parts[:-HELD_OUT], torch.cat(parts[-HELD_OUT:])


SHOWN = ("variant", "implementation", "d", "m", "batch", "tokens_per_s", "share_of_product_rate", "times_the_library")


def our_trainer(config: Train, variant: str, seed: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(update(step, x), quality(held out, last batch) -> FVE, L0) of this package."""
    trainer = Trainer(config.job(variant, seed), config.recipe(), config.d, config.device)
    buffer = torch.empty(config.batch, config.m, device=config.device)

    def quality(x: Tensor, last: Tensor) -> tuple[float, float]:
        values = evaluate(trainer.sae(1.0, last).to(config.device), x)
        return values["FVE"], values["L0"]

    return lambda step, x: trainer.update(x, buffer), quality


def library_trainer(config: Train, variant: str, seed: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same of dictionary-learning 0.1.0, from the same initial weights, with the same recipe."""
    module, name = CLASSES[variant]
    recipe, job = config.recipe(), config.job(variant, seed)
    given: dict[str, Any] = {
        "steps": recipe.steps,
        "activation_dim": config.d,
        "dict_size": config.m,
        "layer": 0,
        "lm_name": "none",
        "lr": recipe.lr,
        "warmup_steps": recipe.warmup_steps,
        "decay_start": int(recipe.decay_start * recipe.steps),
        "seed": seed,
        "device": config.device,
    }
    if job.sparsity_name == "k":
        given |= {"k": config.k, "auxk_alpha": recipe.auxk_alpha, "threshold_beta": recipe.threshold_beta}
        given["threshold_start_step"] = recipe.threshold_start_step
    else:
        given |= {job.sparsity_name: job.sparsity, "sparsity_warmup_steps": recipe.sparsity_warmup_steps}
    if variant == "jumprelu":
        given |= {"bandwidth": recipe.bandwidth, "sparsity_penalty": 1.0}
    if variant == "matryoshka_batch_topk":
        given["group_fractions"] = list(PREFIXES)
        given["group_weights"] = [1.0] * len(PREFIXES)  # it averages over groups after weighting them
    trainer = getattr(importlib.import_module(f"{LIBRARY}.trainers.{module}"), name)(**given)
    trainer.dead_feature_threshold = recipe.dead_after_tokens
    _same_start(trainer.ae, Trainer(job, recipe, config.d).weights)

    @torch.no_grad()
    def quality(x: Tensor, last: Tensor) -> tuple[float, float]:
        z = trainer.ae.encode(x)
        error = (x - trainer.ae.decode(z)).square().sum()
        return float(1 - error / (x - x.mean(0)).square().sum()), float((z > 0).sum()) / len(x)

    return trainer.update, quality


@torch.no_grad()
def _same_start(ae: Any, weights: Any) -> None:
    if hasattr(ae, "W_enc"):
        ae.W_enc.copy_(weights.rows.t())
        ae.W_dec.copy_(weights.W_dec)
    else:
        ae.encoder.weight.copy_(weights.rows)
        ae.decoder.weight.copy_(weights.W_dec.t())
    for bias in (getattr(ae, "b_enc", None), getattr(getattr(ae, "encoder", None), "bias", None)):
        if bias is not None:
            bias.zero_()


def two_products(x: Tensor, m: int, device: str) -> float:
    """Seconds of x @ W.T and z @ W for a batch, the least that a step with a dense encoder and decoder takes."""
    rows = torch.randn(m, x.shape[1], device=device)
    z, back = torch.empty(len(x), m, device=device), torch.empty_like(x)

    def products() -> None:
        torch.mm(x, rows.t(), out=z)
        torch.mm(z, rows, out=back)

    return milliseconds(products, device) / 1000
