"""Ground truth computed: problems with known codes, both dictionaries, and scores of what each inference finds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.base.files import cache_dir, digest
from repro.base.machine import pick_device
from repro.codes import SparseCodes
from repro.inference import calibrate_lambda, infer
from repro.metrics import Reconstruction
from repro.sae import SAE, TopK
from repro.sections.ground_truth.problems import PROBLEMS, Problem
from repro.sections.scales import Scale
from repro.sections.tables import save_table
from repro.sections.types import DataFrame
from repro.solvers import pursuit

TRAIN_ROWS, MOST_STEPS = 100_000, 4_000
BATCHES = {"tiny": 256}  # rows a training step, by scale
WAYS = ("encoder", "semi", "certified", "certified_k", "pursuit")


def run(scale: Scale, seeds: int = 3, problems: Sequence[Problem] = PROBLEMS) -> DataFrame:
    """Every problem x seed x dictionary (true, learned) x inference mode, one row each; writes table `ground_truth`.

    A seed draws dictionary, codes and initial weights anew. Training takes five times the steps of the scale, at most
    4,000, and finished SAEs are found again; tests are on as many fresh rows as the scale evaluates.
    """
    started = time.perf_counter()
    rows = []
    for problem in problems:
        for seed in range(scale.seed, scale.seed + seeds):
            for row in measure(problem, seed, min(5 * scale.steps, MOST_STEPS), scale.eval_tokens, scale):
                rows.append({"problem": problem.name, **vars(problem), "seed": seed, **row})
    return save_table("ground_truth", scale, rows, time.perf_counter() - started)


def measure(problem: Problem, seed: int, steps: int, n: int, scale: Scale) -> Iterator[dict[str, Any]]:
    """Rows of one draw: both dictionaries, every inference mode at the true number of nonzeros K."""
    atoms = problem.dictionary(1_000 + seed)
    train_x, train_z = problem.draw(TRAIN_ROWS, atoms, 2_000 + seed)
    x, z = problem.draw(n, atoms, 3_000 + seed)
    learned = trained(problem, train_x, seed, steps, scale)
    for name, sae in (("true", with_best_encoder(atoms, [(train_x, train_z)], problem.K)), ("learned", learned)):
        match = assignment(cosines(sae.W_dec.detach(), atoms))
        agreement = float(cosines(sae.W_dec.detach(), atoms)[match].mean())
        for way in WAYS:
            facts: dict[str, Any] = {"dictionary": name, "way": way, "MCC_dictionary": agreement}
            try:
                codes = codes_of(sae, x, way, problem)
            except BadInput as error:
                yield facts | {"note": str(error)}
                continue
            dense = codes.to_dense()
            yield {
                **facts,
                "L0": float(codes.l0.double().mean()),
                "support_F1": support_f1(dense[:, match[0]] > 0, z[:, match[1]] > 0),
                "MCC_codes": mcc(dense, z),
                **Reconstruction.of(x, sae.decode(codes, x).detach()).value(),
            }


def codes_of(sae: SAE, x: Tensor, way: str, problem: Problem) -> SparseCodes:
    """Codes by one way, of K nonzeros a row: exactly, or on average (semi, certified: lambda by bisection).

    certified_k keeps the K largest codes of a row's optimum at lambda = σ√(2 ln N), above what noise of the problem's σ
    correlates with N atoms. Encoder and pursuit are given K for every row, and so is this.
    """
    k = problem.K
    if way == "encoder":
        return sae.encode_sparse(x)
    if way == "pursuit":
        return pursuit(sae.target(x), sae.W_dec.detach(), k)
    if way == "certified_k":
        lam = max(problem.noise, 1e-3) * (2 * math.log(problem.N)) ** 0.5
        codes = infer(sae, x, "non", lam=lam, gap=False).codes
        values, slots = codes.values.topk(min(k, codes.values.shape[1]), dim=1)
        return SparseCodes(values, codes.indices.gather(1, slots), codes.m)
    mode = {"semi": "semi", "certified": "non"}[way]
    lam = calibrate_lambda(sae, x[:1000], float(k), mode)
    return infer(sae, x, mode, lam=lam, gap=False).codes


# --- dictionaries -----------------------------------------------------------------------------------


def trained(problem: Problem, x: Tensor, seed: int, steps: int, scale: Scale) -> SAE:
    """A Top-K SAE with as many latents as there are sources and their true k, trained on x; kept in the cache."""
    from repro.activations.store import ActivationStore
    from repro.checkpoints import load_sae
    from repro.training.recipe import Job, Recipe
    from repro.training.train import train

    values = x.numpy()[:, None]
    docs = np.arange(len(x), dtype=np.int32)[:, None]
    store = ActivationStore(Path("generated"), values, np.ones(docs.shape, bool), docs, flat=True)
    batch = min(BATCHES.get(scale.name, 1024), scale.batch_size)
    recipe = Recipe.scaled(steps, batch, seed=seed, checkpoints=(1.0,))
    folder = cache_dir() / "experiments" / "ground-truth" / digest(problem, seed, len(x), recipe)
    job = Job("topk", problem.K, problem.N, seed)
    device = pick_device(scale.device)
    return load_sae(train(store.select(exclude=()), [job], recipe, folder, device=device, progress=False)[0])


def with_best_encoder(atoms: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], k: int) -> TopK:
    """The true dictionary [m, M] with the linear encoder that fits the true codes best (least squares), top-k of it.

    pairs: blocks of (x [n, M], z [n, m]). No encoder of this form that was only shown x knows more, so what it misses
    is the price of amortization.
    """
    m, d = atoms.shape
    sae = TopK(TopK.Config(d, m, k=k)).requires_grad_(False)
    gram, cross = torch.zeros(d + 1, d + 1, dtype=torch.double), torch.zeros(d + 1, m, dtype=torch.double)
    for x, z in pairs:
        wide = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
        gram += wide.T @ wide
        cross += wide.T @ z.double()
    solution = torch.linalg.solve(gram, cross).float()
    sae.W_dec.copy_(atoms)
    sae.W_enc.copy_(solution[:-1])
    sae.b_enc.copy_(solution[-1])
    return sae


# --- scores -----------------------------------------------------------------------------------------


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the rows of a [m, d] and b [N, d], [m, N]; 0 for a row of zeros."""
    unit = [t.double() / t.double().norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (a, b)]
    return unit[0] @ unit[1].T


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlations of the columns of a [n, m] and b [n, N], [m, N]; 0 for a constant column."""
    return cosines((a.double() - a.double().mean(0)).T, (b.double() - b.double().mean(0)).T)


def assignment(score: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of the one-to-one assignment with the largest sum (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(score.cpu().numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def mcc(a: Tensor, b: Tensor) -> float:
    """Mean correlation coefficient: of the columns of a and b, matched one to one so that it is largest."""
    score = correlations(a, b)
    return float(score[assignment(score)].mean())


def support_f1(guess: Tensor, true: Tensor) -> float:
    """F1 of all "is it on?" decisions together, [n, N] bool each."""
    hits = float((guess & true).sum())
    total = float(guess.sum() + true.sum())
    return 2 * hits / total if total else 1.0
