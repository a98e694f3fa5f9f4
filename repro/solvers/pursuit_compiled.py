"""OMP and OMPR by compiled kernels where they can run, else by their plain twins in `greedy`.

Those of a GPU are in `pursuit_triton`, those of a CPU here. On a CPU, with the Gram matrix G = A A^T of all atoms, a
step costs a token a few rows of G instead of a product with all atoms. Building G costs as much as the encoder on m
tokens, so it is built when that many tokens pay for it, and kept in `shared`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import optional
from repro.codes import SparseCodes
from repro.solvers import greedy, pursuit_triton
from repro.solvers.greedy import ENTER, GAIN, ROUNDS, KSparse

GRAM_BYTES = 2**30  # that G may take
PAYS = 4  # G is built once the tokens of these atoms are more than m / PAYS
BUILT = 2048  # rows of G that are built at a time


def omp(p: KSparse) -> SparseCodes:
    """Orthogonal matching pursuit; on G, compiled, or with as many products with all atoms as there are steps."""
    if pursuit_triton.usable(p):
        return pursuit_triton.omp(p)
    G = gram(p) if compiles(p) else None
    if G is None:
        return greedy.omp(p)
    kernels, over = _kernels()
    S, u = np.zeros((len(p.x), p.most), np.int64), np.zeros((len(p.x), p.most))
    over(len(p.x), kernels.omp, _tokens(p, kernels, G), S, u)
    return p.codes(torch.from_numpy(u), torch.from_numpy(S))


def ompr(p: KSparse) -> SparseCodes:
    """OMP with replacement; compiled, on G or with a product with all atoms in each round."""
    if pursuit_triton.usable(p):
        return pursuit_triton.ompr(p)
    if not compiles(p):
        return greedy.ompr(p)
    kernels, over = _kernels()
    G, b, K = gram(p), len(p.x), p.most + ENTER + 1
    rounds = ROUNDS if p.rounds is None else p.rounds
    tokens = _tokens(p, kernels, G)
    zeros, none = np.zeros((b, K)), np.zeros((0, len(p.scale)), np.float32)
    s = kernels.Supports(
        zeros.astype(np.int64), zeros, np.zeros(b, np.int64), np.zeros((b, K, K)),
        np.zeros((b, p.most), np.int64), np.zeros((b, p.most)), np.zeros(b), np.full(b, ENTER),
    )  # fmt: skip
    if p.z0 is not None:
        over(b, kernels.ompr_begin, tokens, s, p.z0.indices, p.z0.values)
    if G is not None:
        over(b, kernels.ompr, tokens, s, rounds, none)
    else:
        r = torch.from_numpy(tokens.r)
        for _ in range(rounds):
            over(b, kernels.ompr, tokens, s, 1, p.correlations(r))
    return p.codes(torch.from_numpy(s.best_u), torch.from_numpy(s.best_S))


def compiles(p: KSparse) -> bool:
    """Can the kernels of a CPU take this problem?"""
    return p.x.device.type == "cpu" and p.x.dtype == torch.float32 and importlib.util.find_spec("numba") is not None


def gram(p: KSparse) -> Tensor | None:
    """G [m, m] of the unit atoms, float32, if it is there already or fits and pays; else None."""
    m = len(p.atoms)
    if "pursuit_gram" not in p.shared and 4 * m * m <= GRAM_BYTES and PAYS * p.shared.get("tokens", 0) >= m:
        unit, G = p.atoms * p.scale.unsqueeze(1), torch.empty(m, m)
        for start in range(0, m, BUILT):
            rows = slice(start, start + BUILT)
            torch.mm(unit[rows], unit[: start + BUILT].T, out=G[rows, : start + BUILT])
            G[:start, rows] = G[rows, :start].T
        p.shared["pursuit_gram"] = G
    return p.shared.get("pursuit_gram")


def _kernels() -> tuple[Any, Any]:
    with optional():
        from repro.kernels.cpu import pursuit as kernels
        from repro.kernels.cpu.threads import over
    return kernels, over


def _tokens(p: KSparse, kernels: Any, G: Tensor | None) -> Any:
    """The block as arrays, with the correlations of all atoms if G is used."""
    m = len(p.atoms)
    x, energy, none = p.x.numpy(), p.x.double().square().sum(1).numpy(), np.zeros((0, m), np.float32)
    c0 = none if G is None else (p.x @ p.atoms.T).mul_(p.scale).numpy()
    r = p.x.numpy().copy() if G is None else np.zeros((0, 0), np.float32)
    square = none if G is None else G.numpy()
    mask = -1 if p.nonneg else 0x7FFFFFFF
    return kernels.Tokens(
        x, r, c0, p.noise.numpy(), GAIN * energy, p.k.numpy(), p.atoms.numpy(), p.scale.numpy(), square, mask, p.nonneg
    )
