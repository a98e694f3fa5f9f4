"""Greedy coordinate descent for the GPU: a token a program, its codes in registers. Twin: reference.py.

A step reads one row of the Gram matrix, w numbers, and nothing else.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHECK = 16  # steps between two looks at the duality gap
LANES = 256  # codes that a warp holds


@triton.jit
def _best(u, q, g, lam, NONNEG: tl.constexpr):
    """Where each code would go by itself."""
    v = u * g + q
    if NONNEG:
        new = tl.maximum(v - lam, 0.0)
    else:
        new = v - tl.minimum(tl.maximum(v, -lam), lam)
    return tl.where(g > 0, new / tl.where(g > 0, g, 1.0), 0.0)


@triton.jit(do_not_specialize=["rounds"])
def _descend(
    G, u_in, q_in, lam, energy, target, u_out, q_out, w, rounds,
    NONNEG: tl.constexpr, CHECK: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, W)
    inside = at < w
    rows = G + token * w * w
    g = tl.load(rows + at * (w + 1), mask=inside, other=0.0)
    length = tl.sqrt(g)
    u_first = tl.load(u_in + token * w + at, mask=inside & (g > 0), other=0.0)
    q_first = tl.load(q_in + token * w + at, mask=inside, other=0.0)
    u, q = u_first, q_first
    least, rr_first, goal = tl.load(lam + token), tl.load(energy + token), tl.load(target + token)
    left = rounds
    while left > 0:
        for _ in range(CHECK):
            new = _best(u, q, g, least, NONNEG)
            move = new - u
            j = tl.argmax(tl.abs(move) * length, axis=0)
            here = at == j
            row = tl.load(rows + j * w + at, mask=inside, other=0.0)
            q -= tl.sum(tl.where(here, move, 0.0), axis=0) * row
            u = tl.where(here, new, u)
        reach = q if NONNEG else tl.abs(q)
        top = tl.maximum(tl.max(reach, axis=0), least)
        a = tl.where(top > 0, least / tl.where(top > 0, top, 1.0), 1.0)
        rr = rr_first - tl.sum((u - u_first) * (q + q_first), axis=0)
        gap = 0.5 * (1 - a) * (1 - a) * rr + least * tl.sum(tl.abs(u), axis=0) - a * tl.sum(u * q, axis=0)
        move = _best(u, q, g, least, NONNEG) - u
        left = tl.where((gap <= goal) | (tl.max(tl.abs(move) * length, axis=0) == 0), 0, left - 1)
    tl.store(u_out + token * w + at, u, mask=inside)
    tl.store(q_out + token * w + at, q, mask=inside)


def coordinate_descent(
    G: Tensor, u: Tensor, q: Tensor, lam: Tensor, energy: Tensor, target: Tensor, nonneg: bool, steps: int
) -> tuple[Tensor, Tensor]:
    """(u, q) of each token, as the twin finds them; steps are counted in sixteens."""
    n, w = u.shape
    u, q = u.contiguous(), q.contiguous()
    u_out, q_out = torch.empty_like(u), torch.empty_like(q)
    if u.numel():
        lanes = triton.next_power_of_2(w)
        _descend[(n,)](
            G.contiguous(), u, q, lam, energy, target, u_out, q_out, w, triton.cdiv(steps, CHECK),
            NONNEG=nonneg, CHECK=CHECK, W=lanes, num_warps=min(16, max(1, lanes // LANES)),
        )  # fmt: skip
    return u_out, q_out
