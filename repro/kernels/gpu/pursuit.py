"""Pursuit for the GPU: the atoms that correlate most, and supports that they enter. Twin: repro/solvers/greedy.py.

A step of all tokens is a product of their residuals with all atoms by torch, and five kernels. `_strongest` reads the
correlations once and keeps the C largest of each token. `_choose` computes those again in float64 from the float32
residual and atoms, so that the product may round its operands to TF32, and orders the atoms that enter. `_products`
multiplies these with the support. `_exchange` lets them enter and others leave (support.py): a program a token, which
holds the inverse of the support's Gram matrix, W^2 numbers, in registers. `_residual` follows.

A step of OMP at (d, m) with t atoms in the support costs a token
- 2 d m operations in the product, and 8 m bytes to write its m correlations and to read them;
- 4 d (2 t + C) bytes of gathered atoms, 16 t^2 bytes of H, and about 4 W^2 operations in float64.
At (768, 16,384), t = 16 and NVIDIA's rates for an H100 (495 TFLOP/s in TF32, 67 in float32, 3.35 TB/s), the product
takes 0.051 us, its correlations 0.039, the atoms 0.044 and H 0.001. The product is 38 % of this floor of 0.135 us; with
a float32 product of 0.38 us it would be 82 %. The same correlations from the rows of the Gram matrix of all atoms are
4 m t bytes, or 0.31 us, so that matrix is not used. Nothing of this was measured. H of 128 slots is spilled in part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.kernels.gpu.support import enter, leave
from repro.kernels.gpu.tile import INTERPRETED

CANDIDATES = 8 if INTERPRETED.value else 16
"""Correlations that are computed again: at least as many as may enter, and those that TF32 confuses with them."""
WARPS = {16: 4, 32: 4, 64: 8, 128: 16}  # of `_exchange` by the slots of a support; H of more slots does not fit
BLOCK = 256 if INTERPRETED.value else 2048  # correlations that are read at a time
DEPTH = 32  # numbers of an atom that are read at a time


class Tokens(NamedTuple):
    """A block of n tokens and the dictionary, contiguous."""

    x: Tensor  # [n, d] float32
    r: Tensor  # [n, d] float32, residuals
    atoms: Tensor  # [m, d] float32
    scale: Tensor  # [m] float32, 1 / norm
    noise: Tensor  # [n] float32, correlations up to here are rounding
    least: Tensor  # [n] float64, a step that explains less in addition halves the atoms of the next one
    most: Tensor  # [n] int64, atoms that a token may have
    limit: Tensor  # [n] int64, steps that a token may take
    nonneg: bool
    dependent: float  # squared distance of an atom from the span of the support below which it does not enter


class Supports(NamedTuple):
    """Supports of n tokens in W slots, and the best that each token has had. S is -1 in empty slots, u and b are 0."""

    S: Tensor  # [n, W] int32, atoms
    u: Tensor  # [n, W] float64, codes of the unit atoms
    b: Tensor  # [n, W] float64, products of the unit atoms with x
    H: Tensor  # [n, W, W] float64, inverse of their Gram matrix; undefined where a slot is empty
    best_S: Tensor
    best_u: Tensor
    explained: Tensor  # [n] float64, ||x||^2 - ||r||^2 of the best
    add: Tensor  # [n] int32, atoms that may enter in the next step; 0: finished


@triton.jit
def _strongest(c, scale, near, m, NONNEG: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, C)
    best = tl.zeros([C], dtype=tl.int64)  # keys as in encode.py: the value's bits, then m - 1 - atom
    for start in range(0, m, BLOCK):
        atom = start + tl.arange(0, BLOCK)
        value = tl.load(c + token * m + atom, mask=atom < m, other=0.0)
        value *= tl.load(scale + atom, mask=atom < m, other=0.0)
        if not NONNEG:
            value = tl.abs(value)
        key = (value.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (m - 1 - atom).to(tl.int64)
        key = tl.where(value > 0, key, 0)
        top = tl.max(key, axis=0)
        least, last = tl.min(best, axis=0, return_indices=True)
        while top > least:
            best, key = tl.where(at == last, top, best), tl.where(key == top, 0, key)
            top = tl.max(key, axis=0)
            least, last = tl.min(best, axis=0, return_indices=True)
    tl.store(near + token * C + at, tl.where(best > 0, m - 1 - best.to(tl.int32), -1))


@triton.jit
def _rows(atoms, S, cols, d):
    """Columns of the atoms S, [.., BD] float64; 0 where S is -1."""
    rows = tl.where(S >= 0, S, 0).to(tl.int64)
    inside = (S >= 0)[:, None] & (cols < d)[None, :]
    return tl.load(atoms + rows[:, None] * d + cols[None, :], mask=inside, other=0.0).to(tl.float64)


@triton.jit
def _scales(scale, S):
    return tl.load(scale + tl.where(S >= 0, S, 0)).to(tl.float64)


@triton.jit
def _choose(
    near, r, atoms, scale, noise, S, entrants, d,
    NONNEG: tl.constexpr, W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    atom = tl.load(near + token * C + tl.arange(0, C))
    value = tl.zeros([C], tl.float64)
    for start in range(0, d, BD):
        cols = start + tl.arange(0, BD)
        part = tl.load(r + token * d + cols, mask=cols < d, other=0.0).to(tl.float64)
        value += tl.sum(_rows(atoms, atom, cols, d) * part[None, :], axis=1)
    value *= _scales(scale, atom)
    if not NONNEG:
        value = tl.abs(value)
    support = tl.load(S + token * W + tl.arange(0, W))
    known = tl.max((atom[:, None] == support[None, :]).to(tl.int32), axis=1) > 0
    value = tl.where(known | (value <= tl.load(noise + token)), 0.0, value)
    for e in range(E):
        top = tl.max(value, axis=0)
        best = tl.min(tl.where((value == top) & (value > 0), atom, 0x7FFFFFFF), axis=0)
        tl.store(entrants + token * E + e, tl.where(top > 0, best, -1))
        value = tl.where(atom == best, 0.0, value)


@triton.jit
def _products(entrants, S, x, atoms, scale, P, B, d, W: tl.constexpr, E: tl.constexpr, BD: tl.constexpr):
    """P [n, E, W + E]: products of the unit atoms that enter with the support and with each other; B [n, E]: with x."""
    token, e, slots, others = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, W), tl.arange(0, E)
    atom = tl.load(entrants + token * E + e)
    if atom < 0:
        return
    support, together = tl.load(S + token * W + slots), tl.load(entrants + token * E + others)
    g, h, to_x = tl.zeros([W], tl.float64), tl.zeros([E], tl.float64), tl.zeros([BD], tl.float64)
    for start in range(0, d, BD):
        cols = start + tl.arange(0, BD)
        a = tl.load(atoms + atom.to(tl.int64) * d + cols, mask=cols < d, other=0.0).to(tl.float64)
        g += tl.sum(_rows(atoms, support, cols, d) * a[None, :], axis=1)
        h += tl.sum(_rows(atoms, together, cols, d) * a[None, :], axis=1)
        to_x += a * tl.load(x + token * d + cols, mask=cols < d, other=0.0).to(tl.float64)
    unit, out = tl.load(scale + atom).to(tl.float64), P + (token * E + e) * (W + E)
    tl.store(out + slots, g * unit * _scales(scale, support))
    tl.store(out + W + others, h * unit * _scales(scale, together))
    tl.store(B + token * E + e, unit * tl.sum(to_x, axis=0))


@triton.jit(do_not_specialize=["step", "passes"])
def _exchange(
    entrants, P, B, least, most, limit, S_at, u_at, b_at, H_at, best_S, best_u, explained, add,
    step, passes, E, first, dependent, START: tl.constexpr, NONNEG: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """P [n, E, first + E], the products of an entrant with the others from column `first` on."""
    token, at = tl.program_id(0).to(tl.int64), tl.arange(0, W)
    few = tl.load(add + token)
    if (few == 0) | (step >= tl.load(limit + token)):
        return
    slots, square = token * W + at, H_at + token * W * W + at[:, None] * W + at[None, :]
    S, u, b = tl.load(S_at + slots), tl.load(u_at + slots), tl.load(b_at + slots)
    H = tl.load(square, mask=(S >= 0)[:, None] & (S >= 0)[None, :], other=0.0)
    column, left, count = at, passes, tl.minimum(few, E)  # column: where P has the atom of a slot
    if START:
        count = few * 0 + E
    while left > 0:
        e, entered = few * 0, few * 0
        while e < count:
            atom = tl.load(entrants + token * E + e)
            known = tl.max((atom == S).to(tl.int32), axis=0)
            if (atom >= 0) & (known == 0):
                row = P + (token * E + e) * (first + E)
                g = tl.load(row + column, mask=S >= 0, other=0.0)
                own, to_x = tl.load(row + first + e), tl.load(B + token * E + e)
                S, u, b, H, slot = enter(S, u, b, H, g, own, to_x, atom, dependent, NONNEG, W)
                column = tl.where(at == slot, first + e, column)
                entered += tl.where(slot < W, 1, 0)
            e += 1
        left = tl.where(entered > 0, left - 1, 0)
        few = tl.where(entered > 0, few, 0)
    while tl.sum((S >= 0).to(tl.int32), axis=0) > tl.load(most + token):
        S, u, b, H = leave(S, u, b, H, NONNEG, W)
    now, before = tl.sum(u * b, axis=0), tl.load(explained + token)
    better = at < tl.where(now > before, W, 0)
    tl.store(best_S + slots, S, mask=better)
    tl.store(best_u + slots, u, mask=better)
    tl.store(explained + token, tl.maximum(now, before))
    if not START:
        tl.store(add + token, tl.where(now > before + tl.load(least + token), few, few // 2))
    tl.store(S_at + slots, S)
    tl.store(u_at + slots, u)
    tl.store(b_at + slots, b)
    tl.store(square, H, mask=(S >= 0)[:, None] & (S >= 0)[None, :])


@triton.jit
def _residual(S, u, x, r, atoms, scale, d, W: tl.constexpr, BD: tl.constexpr):
    token, slots = tl.program_id(0).to(tl.int64), tl.arange(0, W)
    support = tl.load(S + token * W + slots)
    code = tl.load(u + token * W + slots) * _scales(scale, support)
    for start in range(0, d, BD):
        cols = start + tl.arange(0, BD)
        rest = tl.load(x + token * d + cols, mask=cols < d, other=0.0).to(tl.float64)
        rest -= tl.sum(code[:, None] * _rows(atoms, support, cols, d), axis=0)
        tl.store(r + token * d + cols, rest.to(tl.float32), mask=cols < d)


def supports(n: int, width: int, enter: int, device: torch.device) -> Supports:
    """Empty supports of n tokens with at least `width` slots, at most 128; up to `enter` atoms in the first step."""
    W = next(slots for slots in WARPS if slots >= width)
    S, u = torch.full((n, W), -1, dtype=torch.int32, device=device), torch.zeros(n, W, device=device).double()
    H, add = u.new_empty(n, W, W), torch.full((n,), enter, dtype=torch.int32, device=device)
    return Supports(S, u, u.clone(), H, S.clone(), u.clone(), u[:, 0].clone(), add)


def strongest(c: Tensor, scale: Tensor, nonneg: bool) -> Tensor:
    """The atoms [n, CANDIDATES] of the largest scale [m] * c [n, m], or of its sizes; -1 where fewer are positive."""
    near = torch.empty(len(c), CANDIDATES, dtype=torch.int32, device=c.device)
    _strongest[(len(c),)](c, scale, near, c.shape[1], NONNEG=nonneg, C=CANDIDATES, BLOCK=BLOCK)
    return near


def step(s: Supports, c: Tensor, tokens: Tokens, number: int, enter: int) -> None:
    """Step `number` of all tokens, in place. c [n, m]: products of the residuals with the atoms; enter: 1 or 8.

    Of the `enter` atoms that correlate most with the residual, those above the noise, the first s.add enter; then,
    while more than `most` are in, the one that is missed least leaves. Tokens at their limit stay as they are.
    """
    t, (n, W), d = tokens, s.S.shape, tokens.x.shape[1]
    near, entrants = strongest(c, t.scale, t.nonneg), s.S.new_empty(n, enter)
    P, B = s.u.new_empty(n, enter, W + enter), s.u.new_empty(n, enter)
    sizes = {"W": W, "E": enter, "BD": DEPTH}
    given = (near, t.r, t.atoms, t.scale, t.noise, s.S, entrants, d)
    _choose[(n,)](*given, NONNEG=t.nonneg, C=CANDIDATES, **sizes)
    _products[(n, enter)](entrants, s.S, t.x, t.atoms, t.scale, P, B, d, **sizes)
    exchange(s, entrants, P, B, t, number)


def exchange(s: Supports, entrants: Tensor, P: Tensor, B: Tensor, t: Tokens, number: int = 0, passes: int = 0) -> None:
    """The atoms `entrants` [n, E] enter, others leave, and the residuals are computed afresh.

    P [n, E, .. + E] and B [n, E] float64: products of the unit atoms that enter with the support, each other, and x.
    passes: the start of OMPR, in which all that are not -1 enter, again and again until none explains any more.
    """
    (n, W), E = s.S.shape, entrants.shape[1]
    _exchange[(n,)](
        entrants, P, B, t.least, t.most, t.limit, *s, number, passes or 1, E, P.shape[2] - E, t.dependent,
        START=passes > 0, NONNEG=t.nonneg, W=W, num_warps=WARPS[W],
    )  # fmt: skip
    _residual[(n,)](s.S, s.u, t.x, t.r, t.atoms, t.scale, t.x.shape[1], W=W, BD=DEPTH)
