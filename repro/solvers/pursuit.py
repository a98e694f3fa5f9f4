"""Codes with at most k nonzeros and no shrinkage: `pursuit`, and the methods that it has by name.

A method is a function of a `KSparse` problem that returns codes, and an entry of PURSUITS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.codes import SparseCodes, gathered
from repro.solvers import greedy
from repro.solvers import pursuit_compiled as compiled
from repro.solvers.greedy import ENTER, KSparse
from repro.solvers.problem import Lasso
from repro.solvers.refit import refit

NUMBERS = {"cpu": (2**22, 2**26), "cuda": (2**28, 2**29)}
"""Correlations of a block (at least of 256 rows), and float64 numbers of its gathered atoms and matrices."""


def encoder_refit(p: KSparse) -> SparseCodes:
    """Least squares on the support of z0."""
    assert p.z0 is not None
    return refit(p.x, p.atoms, p.z0, p.nonneg)


PURSUITS: dict[str, Callable[[KSparse], SparseCodes]] = {
    "omp": compiled.omp,
    "ompr": compiled.ompr,
    "mp": greedy.mp,
    "gradient": greedy.gradient,
    "refit": encoder_refit,
}


@torch.no_grad()
def pursuit(
    target: Tensor,
    atoms: Tensor,
    k: int | Tensor,
    method: str = "omp",
    z0: SparseCodes | None = None,
    rounds: int | None = None,
    nonneg: bool = True,
    shared: dict[str, Any] | None = None,
) -> SparseCodes:
    """Codes with at most k nonzeros a row that explain the target [n, d] well; atoms [m, d] of any norm.

    k: a number, or one for each row ([n], 0 allowed). Codes are >= 0 if nonneg.
    method: "omp", orthogonal matching pursuit; "ompr", OMP with replacement, from the support of z0 (the k largest
    codes of the encoder, say) or from nothing, never worse than least squares on that start; "mp", matching pursuit
    by SAELens's rule; "gradient", gradient pursuit; "refit", the k largest codes of z0 and least squares on them.
    rounds: of ompr, 8 if not given. shared: a dict to keep between calls with the same atoms.
    Raises BadInput for what `Lasso` refuses, negative k, codes z0 of another shape, and arguments without a use.
    """
    problem = Lasso(target, atoms, 0.0, nonneg, shared={} if shared is None else shared)
    if method not in PURSUITS:
        raise BadInput(f"No pursuit '{method}'{nearest(method, PURSUITS)}; there are {', '.join(PURSUITS)}.")
    if (method == "refit" and z0 is None) or (method not in ("refit", "ompr") and z0 is not None):
        raise BadInput(f"Pursuit '{method}' {'needs' if z0 is None else 'takes no'} codes z0 to start from.")
    if rounds is not None and (method != "ompr" or rounds < 0):
        raise BadInput(f"rounds = {rounds}: only 'ompr' has rounds, 0 or more.")
    most = _per_row(k, problem)
    if z0 is not None and (len(z0) != problem.n or z0.m != problem.m):
        raise BadInput(f"z0 is [{len(z0)}, {z0.m}]; it must be [n, m] = [{problem.n}, {problem.m}].")
    whole = KSparse(problem.x, problem.atoms, _scale(problem), most, nonneg, z0, rounds, problem.shared)
    whole.shared["tokens"] = whole.shared.get("tokens", 0) + problem.n
    parts = (whole[rows] for rows in _blocks(whole))
    return gathered(PURSUITS[method](part if part.z0 is None else replace(part, z0=_largest(part))) for part in parts)


def _per_row(k: int | Tensor, problem: Lasso) -> Tensor:
    """k [n] as int64, at most m."""
    if isinstance(k, Tensor) and (k.is_floating_point() or k.numel() not in (1, problem.n)):
        raise BadInput(f"k must be whole numbers, one or one a row ({problem.n}), not {k.dtype} {list(k.shape)}.")
    most = torch.as_tensor(k, dtype=torch.long, device=problem.device).reshape(-1).expand(problem.n)
    least = int(most.min()) if problem.n else 1
    if least < 0 or (not isinstance(k, Tensor) and k < 1):
        raise BadInput(f"Pursuit needs k >= 1, or 0 in some rows, not {least if isinstance(k, Tensor) else k}.")
    return most.clamp_max(problem.m)


def _scale(problem: Lasso) -> Tensor:
    """1 / the norm of each atom, [m]; 0 for a zero atom."""
    if "scale" not in problem.shared:
        norms = torch.cat([part.double().norm(dim=1) for part in problem.atoms.split(4096)])
        problem.shared["scale"] = torch.where(norms > 0, 1 / norms, 0).to(problem.atoms.dtype)
    return problem.shared["scale"]


def _largest(p: KSparse) -> SparseCodes:
    """The k largest codes of each row of z0, those of feasible sign."""
    assert p.z0 is not None
    values = p.z0.values.clamp_min(0) if p.nonneg else p.z0.values
    size = values.abs() / p.scale[p.z0.indices].clamp_min(1e-30)  # codes of unit atoms
    slots = size.argsort(dim=1, descending=True, stable=True)[:, : p.most]
    keep = torch.arange(slots.shape[1], device=p.k.device) < p.k.unsqueeze(1)
    return SparseCodes(torch.where(keep, values.gather(1, slots), 0), p.z0.indices.gather(1, slots), p.z0.m)


def _blocks(p: KSparse) -> list[slice]:
    n, d, width = len(p.x), p.x.shape[1], p.most + ENTER
    correlations, numbers = NUMBERS.get(p.x.device.type, NUMBERS["cpu"])
    size = max(1, min(max(256, correlations // len(p.atoms)), numbers // (width * (d + width))))
    return [slice(start, start + size) for start in range(0, max(n, 1), size)]
