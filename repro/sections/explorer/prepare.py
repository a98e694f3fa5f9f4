"""The examples of the explorer in the book: solved by `data/scripts/prepare_explorer.py`, stored, read.

A file a language model, data/explorer/SCALE.json.gz. Its numbers are indexed text -> token -> position of lambda ->
kind of codes; kinds are the steps of STEPS (0: the encoder's own codes), then the optimum, then pursuit.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.base.files import repo_root, write_atomically
from repro.base.machine import provenance
from repro.metrics.gap import bracket
from repro.sections.explorer.session import Explorer
from repro.sections.explorer.sources import Sources, open_sources
from repro.sections.price.run import setting_of
from repro.sections.scales import scale_of
from repro.sections.tables import named
from repro.solvers import Lasso, pursuit, solve
from repro.solvers.objective import certify


@dataclass(frozen=True)
class Choice:
    """Which examples a scale has: the seed of its SAEs, labels of `Sources.saes` and of `Sources.texts`."""

    seed: int
    saes: tuple[str, ...]
    texts: tuple[str, ...]


CHOICES = {
    "small": Choice(1, ("topk 16", "standard 0.1"), ("peace", "a definition", "evaluation text 1")),
    "tiny": Choice(0, ("topk 16", "standard 0.15"), ("peace", "a definition", "evaluation text 3")),
}
"""By scale, in the order of the book."""
NAMES = {"topk": "Top-K, k =", "standard": "Standard, L1 coefficient"}
"""Words for a variant before its sparsity."""
TOKENS = 20
"""Tokens of a text that are read."""
STEPS = (0, 1, 3, 10, 30, 100, 300)
"""ISTA steps from the encoder's codes."""
FACTORS = tuple(4 ** (i / 3) for i in range(-3, 4))
"""Positions of lambda, as multiples of the one at which optimal codes have the encoder's mean L0."""
TOL = 1e-3
"""Relative duality gap that every optimum is certified to."""
SHOWN, CONTEXTS, WIDTH = 10, 2, 6
"""Latents a token, contexts of each, and tokens on either side."""
DIGITS = 3
"""Significant digits of stored numbers. Codes are multiples of a unit that gives the largest of an SAE as many."""
NUMBERS = ("l0", "gap", "error", "bound")
"""Nonzeros, J(z) - J* at most, squared error as a share of ||x||^2, and what J* is at least."""


def file_of(scale: str) -> Path:
    """The committed file of a scale."""
    return repo_root() / "data" / "explorer" / f"{scale}.json.gz"


@cache
def load(scale: str) -> dict[str, Any]:
    """The stored examples of a scale. Raises BadInput if there are none."""
    if not file_of(scale).is_file():
        raise BadInput(f"No examples of '{scale}': run `python data/scripts/prepare_explorer.py {scale}`.")
    return json.loads(gzip.decompress(file_of(scale).read_bytes()))


def examples(scale: str, choice: Choice | None = None) -> dict[str, Any]:
    """Solve the examples of a scale, those of CHOICES if no others are given; the plain values that `write` stores."""
    if scale not in CHOICES:
        raise BadInput(f"No examples are of scale '{scale}': choose {' or '.join(CHOICES)}.")
    choice = choice or CHOICES[scale]
    setting = setting_of(scale_of(scale, seed=choice.seed))
    sources = open_sources(setting)
    return {
        "model": named({"model": setting.model, "layer": None}, scale),
        "layer": sources.loaded.layer,
        "steps": STEPS,
        "saes": [of_sae(sources, label, choice.texts) for label in choice.saes],
        "about": provenance() | {"seed": setting.seed, "m": setting.m, "training text": setting.dataset},
    }


def of_sae(sources: Sources, label: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """One SAE: its texts, and of each latent that they show a name, the rate and contexts."""
    explorer = sources.explorer(label, max_tokens=TOKENS)
    lambdas = [_short(explorer.matched_lambda * factor, 4) for factor in FACTORS]
    read = [of_text(explorer, name, sources.texts[name], lambdas) for name in texts]
    largest = max(torch.tensor(text["z"]).max().item() for text in read)
    unit = 10.0 ** (math.ceil(math.log10(largest)) - DIGITS)
    for text in read:
        text["z"] = (torch.tensor(text["z"]) / unit).round().int().tolist()
    library = explorer.library
    about = {
        j: {
            "words": library.words(j),
            "rate": _short(library.rate(j)),
            "contexts": [[_short(c.value), c.before, c.token, c.after] for c in library.contexts(j, CONTEXTS, WIDTH)],
        }
        for j in sorted({j for text in read for row in text["latents"] for j in row})
    }
    variant, sparsity = label.split()
    facts = {"label": f"{NAMES[variant]} {sparsity}", "lambdas": lambdas, "unit": unit, "searched": library.rows.n}
    return facts | {"latents": about, "texts": read}


@torch.no_grad()
def of_text(explorer: Explorer, name: str, words: str, lambdas: list[float]) -> dict[str, Any]:
    """One text: codes of its tokens, their L0, proven gap and error (share of ||x||^2), and the proven bound on J*.

    Raises BadInput if an optimum is not certified to TOL.
    """
    reading = explorer.read(words)
    counted = reading.x[reading.counted]  # without the first token, which has a norm of its own kind
    at = [_of_lambda(explorer, counted, lam) for lam in lambdas]
    z = torch.stack([codes for codes, _ in at]).movedim(2, 0)  # [n, lambda, kind, m]
    order = z.amax((1, 2)).topk(SHOWN).indices
    middle = z[:, len(lambdas) // 2, len(STEPS)].gather(1, order)
    order = order.gather(1, middle.argsort(dim=1, descending=True, stable=True))
    shown = z.gather(3, order[:, None, None].expand(-1, *z.shape[1:3], -1))
    return {
        "name": name,
        "tokens": list(reading.tokens),
        "left out": len(reading.tokens) - len(order),
        "latents": order.tolist(),
        "z": shown.tolist(),
    } | {key: _short(torch.stack([numbers[key] for _, numbers in at], 1).tolist()) for key in NUMBERS}


def _of_lambda(explorer: Explorer, x: Tensor, lam: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Codes of every kind at one lambda, [kind, n, m], and numbers by name, [n, kind]; `bound` is [n]."""
    sae = explorer.sae
    problem = Lasso(sae.target(x), sae.W_dec, lam, shared=explorer.shared)
    start = sae.encode_sparse(x)
    codes = torch.zeros(len(STEPS) + 2, len(x), sae.config.m)

    def look(step: int, rows: Tensor, state: Any) -> None:
        if step in STEPS:
            codes[STEPS.index(step), rows] = state.codes().to_dense()

    solve(problem, "ista", start, STEPS[-1], tol=None, proof=False, callback=look)
    best = solve(problem, tol=TOL / 10)
    if not bool((best.gap <= TOL * best.objective).all()):
        raise BadInput(f"An optimum at lambda {lam:.3g} is not certified to {TOL}: allow its solver more steps.")
    codes[-2] = best.codes.to_dense()
    codes[-1] = pursuit(problem.x, problem.atoms, start.l0, shared=explorer.shared).to_dense()
    columns: dict[str, list[Tensor]] = {"l0": [], "gap": [], "error": []}
    for z in codes:
        J = certify(problem.x, z, problem.atoms, lam).objective
        columns["l0"].append((z != 0).sum(1))
        columns["gap"].append(bracket(J, best.objective, best.dual)[1])
        columns["error"].append((x - sae.decode(z, x)).double().square().sum(1) / x.double().square().sum(1))
    return codes, {key: torch.stack(column, 1) for key, column in columns.items()} | {"bound": best.dual}


def _short(values: Any, digits: int = DIGITS) -> Any:
    """Numbers, at any depth of lists, to so many significant digits; whole ones without a point."""
    if isinstance(values, list):
        return [_short(value, digits) for value in values]
    short = float(f"{values:.{digits}g}")
    return int(short) if short == int(short) else short


def write(scale: str) -> Path:
    """Solve the examples of a scale and store them; returns the file."""
    text = json.dumps(examples(scale), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    write_atomically(file_of(scale), lambda draft: draft.write_bytes(packed))
    return file_of(scale)
