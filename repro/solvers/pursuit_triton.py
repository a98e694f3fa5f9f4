"""OMP and OMPR by the Triton kernels of kernels/gpu/pursuit.py. Twins: `greedy.omp` and `greedy.ompr`.

Each step is a product of the residuals with all atoms, a kernel that finds the strongest correlations, and a kernel
that updates the support of each token. n tokens of m atoms with k nonzeros take 4 n m + 8 n W^2 bytes, W being k (OMP)
or k + ENTER (OMPR) rounded up to a power of two, and the atoms that OMPR starts from 8 n k d. No m x m matrix is held.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import optional
from repro.codes import SparseCodes
from repro.kernels.precision import operand, torch_products
from repro.solvers import greedy
from repro.solvers.greedy import ENTER, GAIN, PASSES, ROUNDS, KSparse
from repro.solvers.support import DEPENDENT

PRECISION = "tf32"
"""Of the product that proposes atoms; the kernel computes the correlations of what it proposes in float64."""


def usable(p: KSparse) -> bool:
    """Are these float32 tensors on a GPU, with Triton to compile its kernels?"""
    return p.x.device.type == "cuda" and p.x.dtype == torch.float32 and importlib.util.find_spec("triton") is not None


def omp(p: KSparse) -> SparseCodes:
    """Orthogonal matching pursuit."""
    return _by_width(p, 0, _omp, greedy.omp)


def ompr(p: KSparse) -> SparseCodes:
    """OMP with replacement, from z0 or from nothing."""
    return _by_width(p, ENTER, _ompr, greedy.ompr)


Method = Callable[[KSparse], SparseCodes]


def _by_width(p: KSparse, more: int, method: Method, twin: Method) -> SparseCodes:
    """Tokens whose supports take equally many slots together; those of more than 128 slots by the twin."""
    parts, places, below = [], [], -1
    for most in (*_kernels().WARPS, p.most + more):
        rows = torch.nonzero((p.k + more > below) & (p.k + more <= most)).squeeze(1)
        below = max(below, most)
        if len(rows):
            part = p if len(rows) == len(p.k) else p[rows]
            parts.append(method(part) if most in _kernels().WARPS else twin(part))
            places.append(rows)
    return SparseCodes.cat(parts)[torch.cat(places).argsort()] if parts else twin(p)


def _omp(p: KSparse) -> SparseCodes:
    kernels = _kernels()
    s = kernels.supports(len(p.x), p.most, 1, p.x.device)
    tokens = _tokens(p, kernels, torch.full((len(p.x),), -torch.inf, device=p.x.device).double(), p.k)
    for step, c in enumerate(_correlations(p, tokens.r, p.most)):
        kernels.step(s, c, tokens, step, 1)
    return p.codes(s.u, s.S.clamp_min(0).long())


def _ompr(p: KSparse) -> SparseCodes:
    kernels = _kernels()
    s = kernels.supports(len(p.x), p.most + ENTER, ENTER, p.x.device)
    tokens = _tokens(p, kernels, GAIN * p.x.double().square().sum(1), torch.ones_like(p.k))
    if p.z0 is not None:
        A = (p.atoms[p.z0.indices] * p.scale[p.z0.indices].unsqueeze(2)).double()
        B = (A @ p.x.double().unsqueeze(2)).squeeze(2)
        entrants = torch.where(p.z0.values != 0, p.z0.indices, -1).int()
        kernels.exchange(s, entrants, A @ A.mT, B, tokens, passes=PASSES)
    for c in _correlations(p, tokens.r, ROUNDS if p.rounds is None else p.rounds):
        kernels.step(s, c, tokens, 0, ENTER)
        if not bool(s.add.any()):
            break
    return p.codes(s.best_u, s.best_S.clamp_min(0).long())


def _correlations(p: KSparse, r: Tensor, steps: int) -> Iterator[Tensor]:
    """Products [n, m] of the residuals r, as they are by then, with the atoms: one for each step."""
    c = torch.empty(len(p.x), len(p.atoms), device=p.x.device)
    for _ in range(steps):
        with torch_products(r.device, PRECISION):
            torch.mm(operand(r, PRECISION), operand(p.atoms, PRECISION).T, out=c)
        yield c


def _tokens(p: KSparse, kernels: Any, least: Tensor, limit: Tensor) -> Any:
    """The block as tensors for the kernels; residuals start as x."""
    x, most, limit = p.x.contiguous(), p.k.contiguous(), limit.contiguous()
    return kernels.Tokens(x, x.clone(), p.atoms, p.scale, p.noise, least, most, limit, p.nonneg, DEPENDENT)


def _kernels() -> Any:
    with optional():
        from repro.kernels.gpu import pursuit as kernels
    return kernels
