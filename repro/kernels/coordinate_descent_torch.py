"""Greedy coordinate descent on small Gram matrices in plain torch, a step of every token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

CHECK = 16  # steps between two looks at the duality gap


def coordinate_descent(
    G: Tensor, u: Tensor, q: Tensor, lam: Tensor, energy: Tensor, target: Tensor, nonneg: bool, steps: int
) -> tuple[Tensor, Tensor]:
    """min 1/2 u^T G u - b^T u + lam ||u||_1 with b = q + G u, from u: (u, q) of each token; u >= 0 if nonneg.

    G [n, w, w]; u and q [n, w]; lam, energy = ||r||^2 and target [n]. Each step moves the code whose atom moves x_hat
    furthest. A token is finished when its restricted duality gap is at most `target`, looked at every 16 steps, or when
    nothing moves any more, or after `steps`.
    """
    g, lam = G.diagonal(dim1=1, dim2=2), lam.unsqueeze(1)
    length = g.sqrt()
    u, rows = torch.where(g > 0, u, 0), torch.arange(len(u), device=u.device)
    u_first, q_first, q = u.clone(), q, q.clone()
    active = torch.ones_like(rows, dtype=torch.bool)
    for step in range(steps):
        v = u * g + q
        size = (v - lam if nonneg else v.abs() - lam).clamp_min(0)
        new = torch.where(g > 0, (size if nonneg else size * v.sign()) / g, 0)
        gain, j = ((new - u).abs() * length).max(dim=1, keepdim=True)
        if step and step % CHECK == 0:
            rr = energy - ((u - u_first) * (q + q_first)).sum(1)
            active = (restricted_gap(u, q, lam, rr, nonneg) > target) & (gain.squeeze(1) > 0)
            if not bool(active.any()):
                break
        move = torch.where(active.unsqueeze(1), (new - u).gather(1, j), 0)
        u.scatter_add_(1, j, move)
        q -= move * G[rows, j.squeeze(1)]
    return u, q


def restricted_gap(u: Tensor, q: Tensor, lam: Tensor, rr: Tensor, nonneg: bool) -> Tensor:
    """P(u) - Q(a r) = 1/2 (1 - a)^2 ||r||^2 + lam ||u||_1 - a <u, q> with a = min(1, lam / max_j q_j), [n]."""
    top = (q if nonneg else q.abs()).amax(1, keepdim=True)
    a = torch.where(top > lam, lam / top, 1)
    gap = 0.5 * (1 - a).square() * rr.unsqueeze(1) + lam * u.abs().sum(1, keepdim=True)
    return (gap - a * (u * q).sum(1, keepdim=True)).squeeze(1)
