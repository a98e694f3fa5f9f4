"""The mathematics of sparse inference in plain torch: objective, prox, duality gap, Lipschitz constant.

Everywhere: x [n, d] are the targets, z [n, m] the codes (dense, or SparseCodes), atoms [m, d] the dictionary (rows),
lam >= 0 a number or one value per row [n]. Row by row the problem is

    P(z) = 1/2 ||x - z D||^2 + lam ||z||_1,    z >= 0 if nonneg,        r = x - z D,    c = r D^T

and its dual is  Q(v) = 1/2 ||x||^2 - 1/2 ||x - v||^2  over all v with (v D^T)_j <= lam (|.| <= lam when signed).
This is the paper's LASSO; the gap and the rescaled residual as a dual point follow Fercoq, Gramfort and Salmon (2015).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from repro.codes import SparseCodes

Codes = Tensor | SparseCodes
CHUNK = 4096  # atoms that are held in float64 at a time
COLUMNS = 64  # of the dictionary, likewise


def _per_row(lam: float | Tensor, like: Tensor) -> Tensor:
    """lam as [n] (or [1]) in the dtype and on the device of `like`."""
    return torch.as_tensor(lam, dtype=like.dtype, device=like.device).reshape(-1)


def residual(x: Tensor, z: Codes, atoms: Tensor) -> Tensor:
    """r = x - z D, [n, d]."""
    return x - (z.decode(atoms) if isinstance(z, SparseCodes) else z @ atoms)


def l1_norm(z: Codes) -> Tensor:
    """||z||_1 of each row, [n]."""
    return (z.values if isinstance(z, SparseCodes) else z).abs().sum(1)


def objective(x: Tensor, z: Codes, atoms: Tensor, lam: float | Tensor) -> Tensor:
    """P(z) = 1/2 ||x - z D||^2 + lam ||z||_1 of each row, [n], in the precision of the input."""
    return 0.5 * residual(x, z, atoms).square().sum(1) + _per_row(lam, x) * l1_norm(z)


def exact_objective(x: Tensor, z: SparseCodes, atoms: Tensor, lam: float | Tensor) -> Tensor:
    """P(z) of each row, [n] float64, from the nonzeros alone: squared errors add up over columns, a few at a time."""
    wide = SparseCodes(z.values.double(), z.indices, z.m)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], COLUMNS):
        some = slice(start, start + COLUMNS)
        total += objective(x[:, some].double(), wide, atoms[:, some].double(), lam if start == 0 else 0.0)
    return total


def prox(u: Tensor, t: float | Tensor, nonneg: bool = True) -> Tensor:
    """Proximal operator of t ||.||_1: max(u - t, 0) if nonneg, else soft thresholding; t a number or [n], u [n, m]."""
    t = _per_row(t, u).unsqueeze(1)
    return (u - t).clamp_min(0) if nonneg else u.sign() * (u.abs() - t).clamp_min(0)


def max_correlation(r: Tensor, atoms: Tensor, nonneg: bool = True) -> Tensor:
    """max_j c_j with c = r D^T (signed: max_j |c_j|), never below 0, [n]; float64, a chunk of atoms at a time."""
    r = r.double()
    top = torch.zeros(len(r), dtype=torch.float64, device=r.device)
    for start in range(0, len(atoms), CHUNK):
        c = r @ atoms[start : start + CHUNK].double().T
        top = torch.maximum(top, (c if nonneg else c.abs_()).amax(1))
    return top


def lambda_max(x: Tensor, atoms: Tensor, nonneg: bool = True) -> Tensor:
    """The smallest lam at which z = 0 is optimal: max_j (x D^T)_j, signed ||x D^T||_inf; float64 [n]."""
    return max_correlation(x, atoms, nonneg)


def dual_scale(top: Tensor, lam: float | Tensor) -> Tensor:
    """a = min(1, lam / max_j c_j), the factor that makes a residual dual feasible, [n]."""
    lam = _per_row(lam, top)
    return torch.where(top > lam, lam / top.clamp_min(torch.finfo(top.dtype).tiny), torch.ones_like(top))


def dual_value(x: Tensor, v: Tensor) -> Tensor:
    """Q(v) = 1/2 ||x||^2 - 1/2 ||x - v||^2 of each row, [n]."""
    return 0.5 * x.square().sum(1) - 0.5 * (x - v).square().sum(1)


class Certificate(NamedTuple):
    """What is proven of codes, row by row, float64 [n]: dual <= optimum <= objective, gap = objective - dual."""

    objective: Tensor
    dual: Tensor
    gap: Tensor


def certify(
    x: Tensor, z: Codes, atoms: Tensor, lam: float | Tensor, nonneg: bool = True, block: int = 512
) -> Certificate:
    """Objective, dual value and duality gap of any codes, in float64 from a freshly computed residual.

    The gap is never below the true suboptimality P(z) - P*. Signed codes of a nonnegative problem are infeasible:
    their objective is infinite, and so is their gap. Memory: block x (m + 4096) numbers.
    """
    lam = _per_row(lam, x.double()).expand(len(x))
    parts = [Certificate(*(torch.zeros(0, dtype=torch.float64, device=x.device) for _ in range(3)))]
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        parts.append(_certify_block(x[rows].double(), z[rows], atoms, lam[rows], nonneg))
    return Certificate(*(torch.cat(field) for field in zip(*parts)))


def _certify_block(x: Tensor, z: Codes, atoms: Tensor, lam: Tensor, nonneg: bool) -> Certificate:
    l1 = l1_norm(SparseCodes(z.values.double(), z.indices, z.m) if isinstance(z, SparseCodes) else z.double())
    if isinstance(z, SparseCodes):
        z = z.to_dense()
    r = x.clone()
    for start in range(0, len(atoms), CHUNK):
        part = z[:, start : start + CHUNK].double()
        r.addmm_(part, atoms[start : start + CHUNK].double(), alpha=-1)
    proof = certificate_of(x, r, l1, atoms, lam, nonneg)
    if not nonneg:
        return proof
    primal, gap = (field.masked_fill((z < 0).any(1), torch.inf) for field in (proof.objective, proof.gap))
    return Certificate(primal, proof.dual, gap)


def certificate_of(x: Tensor, r: Tensor, l1: Tensor, atoms: Tensor, lam: Tensor, nonneg: bool = True) -> Certificate:
    """What codes of these residuals r [n, d] and norms ||z||_1 = l1 [n] prove; x, r, l1 and lam [n] in float64."""
    a = dual_scale(max_correlation(r, atoms, nonneg), lam).unsqueeze(1)
    primal = 0.5 * r.square().sum(1) + lam * l1
    dual = dual_value(x, a * r)
    return Certificate(primal, dual, (primal - dual).clamp_min(0))


def lipschitz(atoms: Tensor) -> float:
    """L = ||D||_2^2, the largest eigenvalue of the smaller Gram matrix, in float64: 1/L is the step of ISTA."""
    m, d = atoms.shape
    gram = torch.zeros(min(m, d), min(m, d), dtype=torch.float64, device=atoms.device)
    if m < d:
        gram.addmm_(atoms.double(), atoms.double().T)
    else:
        for start in range(0, m, CHUNK):
            part = atoms[start : start + CHUNK].double()
            gram.addmm_(part.T, part)
    return max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)
