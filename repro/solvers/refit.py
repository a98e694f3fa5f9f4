"""Least squares on a given support: the best codes with those nonzeros, without the shrinkage of the penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes, gathered
from repro.solvers.problem import Lasso

NUMBERS = 2**23  # float64 numbers of gathered atoms and Gram matrices that a block of rows may need
SLOTS, TOKENS = 2**22, 4096  # slots of codes that are sorted at a time, in tokens at least so many
ROUNDS = 30  # of block pivoting; 5 to 10 are usual


@torch.no_grad()
def refit(x: Tensor, atoms: Tensor, codes: SparseCodes | Tensor, nonneg: bool = True) -> SparseCodes:
    """Least squares on the support of the given codes, row by row: the best codes with those nonzeros or fewer.

    Nonnegative codes solve NNLS on the support, so some of its atoms may end at zero. x [n, d], atoms [m, d].
    Rows of similar support are solved together. Raises BadInput for codes of another shape.
    """
    problem = Lasso(x, atoms, 0.0, nonneg)
    codes = codes if isinstance(codes, SparseCodes) else SparseCodes.from_dense(codes)
    if len(codes) != problem.n or codes.m != problem.m:
        raise BadInput(f"The codes are [{len(codes)}, {codes.m}]; they must be [n, m] = [{problem.n}, {problem.m}].")
    size = max(TOKENS, SLOTS // codes.values.shape[1])
    starts = range(0, max(problem.n, 1), size)
    return gathered(_refit(problem[i : i + size], codes[i : i + size], nonneg) for i in starts)


def _refit(problem: Lasso, codes: SparseCodes, nonneg: bool) -> SparseCodes:
    """Least squares for tokens few enough to be sorted by the size of their supports."""
    on, slots = (codes.values != 0).to(torch.int8).sort(dim=1, descending=True, stable=True)
    indices, on = codes.indices.gather(1, slots), on.bool()
    size = on.sum(1)
    order = torch.argsort(size, stable=True)
    values = torch.zeros(on.shape, dtype=problem.x.dtype, device=problem.device)
    start, d = 0, problem.x.shape[1]
    while start < problem.n:
        k = max(1, int(size[order[start]]))
        stop = start + _rows(k, d)
        k = max(1, int(size[order[start:stop]][-1]))  # the largest support of the block settles its size
        rows = order[start : start + _rows(k, d)]
        k = max(1, int(size[rows[-1]]))
        used = on[rows, :k]
        A = problem.atoms[torch.where(used, indices[rows, :k], 0)].double()
        G, b = A @ A.mT, (A @ problem.x[rows].double().unsqueeze(2)).squeeze(2)
        u = nnls(G, b, used) if nonneg else solve_on(G, b, used)
        values[rows.unsqueeze(1), torch.arange(k, device=rows.device)] = u.to(values.dtype)
        start += len(rows)
    return SparseCodes(values, torch.where(on, indices, 0), codes.m)


def _rows(k: int, d: int) -> int:
    return max(1, NUMBERS // (k * (d + 3 * k)))


def nnls(G: Tensor, b: Tensor, used: Tensor) -> Tensor:
    """min 1/2 u^T G u - b^T u over u >= 0 on the used slots; G [n, k, k], b and used [n, k], float64 -> u [n, k].

    Block principal pivoting (Kim & Park 2011) from the full support: solve, exchange every slot of the wrong sign
    between support and zero, repeat. It takes a few rounds; rows that it does not settle (dependent atoms, mostly) go
    to Lawson & Hanson, who never hold dependent atoms and always end.
    """
    out, free = torch.zeros_like(b), used.clone()
    left = torch.arange(len(b), device=b.device)
    for _ in range(ROUNDS):
        g, f, c = G[left], free[left], b[left]
        u = solve_on(g, c, f)
        slope = c - (g @ u.unsqueeze(2)).squeeze(2)
        small = 1e-9 * c.abs().amax(1, keepdim=True)
        wrong = (f & (u < 0)) | (used[left] & ~f & (slope > small))
        solved = ~(f & (slope.abs() > 100 * small)).any(1)
        done = ~wrong.any(1) & solved
        out[left[done]] = u[done]
        free[left] = f ^ wrong
        left = left[~done]
        if not len(left):
            return out
    out[left] = lawson_hanson(G[left], b[left], used[left])
    return out


def lawson_hanson(G: Tensor, b: Tensor, used: Tensor) -> Tensor:
    """The same problem, one slot at a time from zero (Lawson & Hanson 1974)."""
    u, free = torch.zeros_like(b), torch.zeros_like(used)
    small = 1e-9 * b.abs().amax(1, keepdim=True)
    for _ in range(3 * b.shape[1]):
        slope = torch.where(used & ~free, b - (G @ u.unsqueeze(2)).squeeze(2), -torch.inf)
        value, slot = slope.max(1, keepdim=True)
        enters = value > small
        if not bool(enters.any()):
            break
        u, free = least_squares(G, b, u, free.scatter(1, slot, enters | free.gather(1, slot)), nonneg=True)
    return u


def least_squares(G: Tensor, b: Tensor, u: Tensor, used: Tensor, nonneg: bool) -> tuple[Tensor, Tensor]:
    """min 1/2 u^T G u - b^T u over the used slots, from a feasible u; G [n, k, k], b, u, used [n, k], float64.

    Nonnegative: walk to the unconstrained solution until a code reaches zero, drop its slot, repeat (Lawson & Hanson).
    """
    for _ in range(u.shape[1] + 1):
        goal = solve_on(G, b, used)
        if not nonneg:
            return goal, used
        blocked = used & (goal <= 0)
        if not bool(blocked.any()):
            return goal, used
        ratio = torch.where(blocked, u / (u - goal).clamp_min(1e-300), torch.inf)
        alpha = ratio.amin(1, keepdim=True).clamp_max(1)
        u = u + alpha * (goal - u)
        used = used & ~(blocked & (ratio <= alpha))
        u = torch.where(used, u.clamp_min(0), 0)
    return u, used


def solve_on(G: Tensor, b: Tensor, used: Tensor) -> Tensor:
    """G u = b on the used slots, 0 elsewhere; a ridge of 1e-10 of the diagonal settles dependent atoms."""
    both = used.unsqueeze(1) & used.unsqueeze(2)
    diagonal = torch.where(used, 1e-10 * G.diagonal(dim1=1, dim2=2) + 1e-300, 1.0)
    L = torch.linalg.cholesky_ex(torch.where(both, G, 0) + torch.diag_embed(diagonal)).L
    u = torch.cholesky_solve(torch.where(used, b, 0).unsqueeze(2), L).squeeze(2)
    return torch.where(used, u, 0)
