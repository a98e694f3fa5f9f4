"""Least squares on a support that a Triton program holds in registers: atoms enter and leave. Twin: solvers/support.py.

S [W] int32 names the atoms, -1 in empty slots. u [W] are their codes and b [W] their products with x. H [W, W] is the
inverse of their Gram matrix. Numbers are float64, and zero where a slot is empty.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def enter(S, u, b, H, g, own, to_x, atom, dependent, NONNEG: tl.constexpr, W: tl.constexpr):
    """The atom enters unless it depends on those that are in or would be negative. Also returns the slot, W if none.

    g [W] are its products with the support, own with itself, to_x with x. The inverse of the bordered Gram matrix is
    H + (v - e)(v - e)^T / left with v = H g, e the new slot and left = own - g v.
    """
    at = tl.arange(0, W)
    v = tl.sum(H * g[None, :], axis=1)
    left, slope = own - tl.sum(g * v, axis=0), to_x - tl.sum(g * u, axis=0)
    enters = left > dependent
    if NONNEG:
        enters = enters & (slope > 0)
    slot = tl.where(enters, tl.argmax((S < 0).to(tl.int32), axis=0), W)
    v = tl.where(at == slot, -1.0, v)
    sigma = tl.where(enters, 1.0 / tl.where(enters, left, 1.0), 0.0)
    H += (sigma * v)[:, None] * v[None, :]
    S, b = tl.where(at == slot, atom, S), tl.where(at == slot, to_x, b)
    S, u, b, H = settle(S, u, b, H, u - sigma * slope * v, NONNEG, W)
    return S, u, b, H, slot


@triton.jit
def remove(S, u, b, H, goal, slot, W: tl.constexpr):
    """Empty a slot; the codes `goal` become those of the other atoms."""
    here = tl.arange(0, W) == slot
    column = tl.sum(tl.where(here[None, :], H, 0.0), axis=1)
    corner = tl.sum(tl.where(here, column, 0.0), axis=0)
    goal -= column * (tl.sum(tl.where(here, goal, 0.0), axis=0) / corner)
    H -= (column / corner)[:, None] * column[None, :]
    H = tl.where(here[:, None] | here[None, :], 0.0, H)
    return tl.where(here, -1, S), tl.where(here, 0.0, u), tl.where(here, 0.0, b), H, tl.where(here, 0.0, goal)


@triton.jit
def settle(S, u, b, H, goal, NONNEG: tl.constexpr, W: tl.constexpr):
    """Walk to the codes `goal` until one reaches zero; its atom leaves, the goal changes; on from there."""
    if NONNEG:
        bad = (S >= 0) & (goal <= 0)
        while tl.max(bad.to(tl.int32), axis=0) > 0:
            ratio = tl.where(bad, u / tl.maximum(u - goal, 1e-300), float("inf"))
            share, slot = tl.min(ratio, axis=0, return_indices=True)
            u = tl.maximum(u + tl.minimum(share, 1.0) * (goal - u), 0.0)
            S, u, b, H, goal = remove(S, u, b, H, goal, slot, W)
            bad = (S >= 0) & (goal <= 0)
    return S, goal, b, H


@triton.jit
def leave(S, u, b, H, NONNEG: tl.constexpr, W: tl.constexpr):
    """The atom without which the residual grows least, by u^2 / H_ii, leaves."""
    at = tl.arange(0, W)
    diagonal = tl.sum(tl.where(at[:, None] == at[None, :], H, 0.0), axis=1)
    loss = tl.where(S >= 0, u * u / tl.where(S >= 0, diagonal, 1.0), float("inf"))
    S, u, b, H, goal = remove(S, u, b, H, u, tl.argmin(loss, axis=0), W)
    return settle(S, u, b, H, goal, NONNEG, W)
