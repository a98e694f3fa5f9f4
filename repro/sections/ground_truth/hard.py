"""The hard problems computed: does pursuit gain error by wrong sources, and are unseen combinations found?"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.codes import SparseCodes
from repro.inference import infer
from repro.metrics import Reconstruction
from repro.sae import SAE, TopK
from repro.sections.ground_truth.problems import Hard, Split
from repro.sections.ground_truth.run import TRAIN_ROWS, assignment, cosines, mcc, support_f1, trained, with_best_encoder
from repro.sections.scales import Scale
from repro.sections.tables import save_table
from repro.sections.types import DataFrame
from repro.solvers import pursuit

TIMES = (0.5, 1.0, 2.0, 4.0)
"""Numbers of nonzeros, in means of the sources that are on."""
WAYS = ("encoder", "refit", "optimum", "pursuit")
NARROW = 4
"""The narrow dictionary has one of so many sources, the most frequent ones, as SynthSAEBench's SAEs have."""
FEW = 2_500
"""Training rows of Barin Pacela et al.: 5,000 rows, of which half validate."""
BATCH = 256
LAMBDA = 0.1  # theirs


@dataclass(frozen=True)
class Setting:
    """What the hard part computes at a scale."""

    problem: Hard
    splits: tuple[int, ...]
    """Numbers of sources of the splits by combinations."""
    times: int
    """Training steps of an SAE, in steps of the scale."""


SETTINGS: Mapping[str, Setting] = {
    "tiny": Setting(Hard(128, 32, 4), (100,), 2),
    "small": Setting(Hard(), (100, 1000), 5),
    "large": Setting(Hard(16_384, 768, 34), (), 5),
}
"""By name; a scale has the setting of its name, others that of small. large: the size of SynthSAEBench."""


def setting_of(name: str) -> Setting:
    """A setting by its name. BadInput: there is none of this name."""
    if name not in SETTINGS:
        raise BadInput(f"No hard problem '{name}'{nearest(name, SETTINGS)}; there are {', '.join(SETTINGS)}.")
    return SETTINGS[name]


def run_hard(scale: Scale, seeds: int = 3, problem: str = "") -> tuple[DataFrame, DataFrame]:
    """Write tables `ground_truth_hard` and `ground_truth_split`: each problem `seeds` times, SAEs kept in the cache.

    problem: a name of SETTINGS, or the scale's own. A seed draws dictionary, codes and initial weights anew; tests are
    on as many fresh rows as the scale evaluates. BadInput: no problem of this name.
    """
    setting = setting_of(problem or (scale.name if scale.name in SETTINGS else "small"))
    draws, steps = range(scale.seed, scale.seed + seeds), setting.times * scale.steps
    scale = replace(scale, batch_size=min(BATCH, scale.batch_size))
    started = time.perf_counter()
    rows = [{"seed": seed, **row} for seed in draws for row in measure_hard(setting.problem, seed, steps, scale)]
    facts = {"problem": setting.problem.name, **vars_of(setting.problem)}
    hard = save_table("ground_truth_hard", scale, [facts | row for row in rows], time.perf_counter() - started)
    started, rows = time.perf_counter(), []
    for sources in setting.splits:
        facts = vars_of(Split.of(sources))
        rows += [facts | {"seed": s, **row} for s in draws for row in measure_split(sources, s, steps, scale)]
    if rows:
        return hard, save_table("ground_truth_split", scale, rows, time.perf_counter() - started)
    return hard, hard.iloc[:0]


def vars_of(problem: Hard | Split) -> dict[str, Any]:
    """The numbers that a problem is made of, by name."""
    return {name: getattr(problem, name) for name in ("N", "M", "K", "noise")}


def measure_hard(problem: Hard, seed: int, steps: int, scale: Scale) -> Iterator[dict[str, Any]]:
    """Rows of one draw: three dictionaries, numbers of nonzeros, ways to codes.

    true: all atoms, and the linear encoder that fits the true codes best. narrow: the same of the most frequent quarter
    of the sources; to it, the other sources are noise. learned: a Top-K SAE trained with the true N and K.
    """
    atoms = problem.dictionary(1_000 + seed)
    x, z = problem.draw(scale.eval_tokens, atoms, 3_000 + seed)
    best = with_best_encoder(atoms, training_rows(problem, atoms, seed), problem.K)
    frequent = problem.frequencies.topk(problem.N // NARROW).indices
    train_x = torch.cat([block for block, _ in training_rows(problem, atoms, seed)])
    learned = trained(problem, train_x, seed, steps, scale)
    match = assignment(cosines(learned.W_dec.detach(), atoms))[1]  # as many latents as sources: in their order
    of_latent = {"true": torch.arange(problem.N), "narrow": frequent, "learned": match}
    saes = {"true": best, "narrow": part_of(best, frequent), "learned": learned}
    for name, sae in saes.items():
        sources = of_latent[name]
        agreement = float(cosines(sae.W_dec.detach(), atoms)[torch.arange(len(sources)), sources].mean())
        facts = {"dictionary": name, "MCC_dictionary": agreement, "n_tokens": len(x)}
        for row in scored(sae, x, z @ atoms, z[:, sources], problem.frequencies[sources], problem.noise):
            yield facts | row


def training_rows(problem: Hard, atoms: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, z) of TRAIN_ROWS rows in blocks, because dense codes of many sources do not fit into memory at once."""
    size = max(256, 2**23 // problem.N)
    for start in range(0, TRAIN_ROWS, size):
        yield problem.draw(min(size, TRAIN_ROWS - start), atoms, 2_000 + seed + 1_000_003 * (1 + start))


def part_of(sae: TopK, latents: Tensor) -> TopK:
    """The SAE without all other latents."""
    part = TopK(replace(sae.config, m=len(latents), k=min(sae.config.k, len(latents)))).requires_grad_(False)
    part.W_dec.copy_(sae.W_dec[latents])
    part.W_enc.copy_(sae.W_enc[:, latents])
    part.b_enc.copy_(sae.b_enc[latents])
    return part


def scored(
    sae: SAE, x: Tensor, clean: Tensor, z: Tensor, frequencies: Tensor, noise: float
) -> Iterator[dict[str, Any]]:
    """Rows of one dictionary; clean [n, M]: x without its noise; z [n, m]: the true code of each latent's source."""
    mean_on = float(frequencies.sum())
    lam = max(noise, 1e-3) * (2 * math.log(len(frequencies))) ** 0.5 / 2
    optimum = infer(sae, x, "non", lam=lam, gap=False).codes
    for times in TIMES:
        k = min(max(1, round(times * mean_on)), sae.config.m)
        for way, codes in ways(sae, x, k, optimum).items():
            x_hat = sae.decode(codes, x).detach()
            yield {
                "times": times,
                "k": k,
                "way": way,
                **support_scores(codes.to_dense(), z),
                "NMSE": Reconstruction.of(x, x_hat).value()["NMSE"],
                "noise_fitted": noise_fitted(x, clean, x_hat),
            }


def noise_fitted(x: Tensor, clean: Tensor, x_hat: Tensor) -> float:
    """The share of the noise x − clean that a reconstruction reproduces, all [n, M]: 1 for x itself, 0 for clean.

    It is ⟨x − clean, x_hat − clean⟩ / ‖x − clean‖². Least squares on k right atoms of M dimensions gives k / M.
    """
    noise = (x - clean).double()
    return float((noise * (x_hat - clean).double()).sum() / noise.square().sum().clamp_min(1e-30))


def ways(sae: SAE, x: Tensor, k: int, optimum: SparseCodes) -> dict[str, SparseCodes]:
    """Codes by each way, with as many nonzeros in a row as the encoder's k largest are (nonnegative values fit fewer).

    refit: least squares on the encoder's support; optimum: the same on the largest codes of the certified optimum.
    """
    narrowed = copy.copy(sae)
    narrowed.config = replace(sae.config, k=k)
    encoder = narrowed.encode_sparse(x)
    target, atoms = sae.target(x), sae.W_dec.detach()
    return {
        "encoder": encoder,
        "refit": pursuit(target, atoms, encoder.l0, "refit", z0=encoder),
        "optimum": pursuit(target, atoms, encoder.l0, "refit", z0=optimum),
        "pursuit": pursuit(target, atoms, encoder.l0),
    }


def support_scores(codes: Tensor, z: Tensor) -> dict[str, float]:
    """L0, precision, recall and F1 of "is it on?" over all rows, and MCC; codes and z [n, m], a column each source.

    precision: of the latents that are on, the share whose source is on; recall: of the sources that are on, the share
    whose latent is on. MCC is over the sources that occur in these rows.
    """
    on, true = codes > 0, z > 0
    hits = float((on & true).sum())
    return {
        "L0": float(on.sum(1).double().mean()),
        "precision": hits / max(float(on.sum()), 1.0),
        "recall": hits / max(float(true.sum()), 1.0),
        "support_F1": support_f1(on, true),
        "MCC_codes": mcc(codes, z[:, true.any(0)]),
    }


def measure_split(sources: int, seed: int, steps: int, scale: Scale) -> Iterator[dict[str, Any]]:
    """Rows of one draw of a split: dictionaries by training rows, seen and unseen combinations, ways to codes."""
    seen = Split.of(sources)
    atoms = seen.dictionary(1_000 + seed)
    x, z = seen.draw(TRAIN_ROWS, atoms, 2_000 + seed)
    saes: dict[str, tuple[int, SAE]] = {"true": (TRAIN_ROWS, with_best_encoder(atoms, [(x, z)], seen.K))}
    for rows in (FEW, TRAIN_ROWS):
        saes[f"learned from {rows:,} rows"] = (rows, trained(seen, x[:rows], seed, steps, scale))
    for unseen in (False, True):
        test_x, test_z = replace(seen, unseen=unseen).draw(scale.eval_tokens, atoms, 3_000 + seed)
        for name, (rows, sae) in saes.items():
            optimum = infer(sae, test_x, "non", lam=LAMBDA, gap=False).codes
            matched, columns = assignment(cosines(sae.W_dec.detach(), atoms))
            for way, codes in {**ways(sae, test_x, seen.K, optimum), "lasso": optimum}.items():
                dense = codes.to_dense()
                scores = support_scores(dense[:, matched], test_z[:, columns])
                yield {
                    "combinations": "unseen" if unseen else "seen",
                    "dictionary": name,
                    "rows": rows,
                    "way": way,
                    **scores,
                    "MCC_codes": published_mcc(dense, test_z),
                    "NMSE": Reconstruction.of(test_x, sae.decode(codes, test_x).detach()).value()["NMSE"],
                }


def published_mcc(codes: Tensor, z: Tensor) -> float:
    """MCC as Barin Pacela et al. compute it: sources that vary, and as many latents, those whose codes vary most."""
    varying = z[:, z.var(0) > 1e-8]
    return mcc(codes[:, codes.var(0).topk(min(varying.shape[1], codes.shape[1])).indices], varying)
