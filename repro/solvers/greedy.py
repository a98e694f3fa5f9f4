"""Greedy codes with at most k nonzeros in plain torch, a block of rows at a time: the twin of the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.solvers.support import Support

NOISE = 1e-6  # of ||x||: correlations below it are rounding, and no atom enters for them
ENTER, ROUNDS = 8, 8  # of OMPR: atoms that enter in one round, and rounds
GAIN = 1e-7  # of ||x||^2: a round of OMPR that explains less than this in addition is the last
PASSES = 10  # over a start support until none of its atoms enters any more; 1 to 2 are usual
SMALL = 1e-2  # norm of a residual at which matching pursuit ends, as SAELens has it


@dataclass(frozen=True)
class KSparse:
    """min over z of ||x - z @ atoms||^2 with at most k[i] nonzeros in row i, z >= 0 if nonneg.

    x [n, d], atoms [m, d], k [n] int64; scale [m] makes the atoms unit vectors (0 for a zero atom); z0 the codes to
    start from, of at most k nonzeros a row, the largest first; rounds of OMPR; shared: what is derived from the atoms.
    """

    x: Tensor
    atoms: Tensor
    scale: Tensor
    k: Tensor
    nonneg: bool = True
    z0: SparseCodes | None = None
    rounds: int | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, rows: slice | Tensor) -> KSparse:
        z0 = None if self.z0 is None else self.z0[rows]
        return replace(self, x=self.x[rows], k=self.k[rows], z0=z0)

    @property
    def most(self) -> int:
        """The largest k, at least 1."""
        return max(1, int(self.k.max())) if len(self.k) else 1

    @property
    def noise(self) -> Tensor:
        return NOISE * self.x.norm(dim=1)

    def correlations(self, r: Tensor, without: Tensor | None = None, used: Tensor | None = None) -> Tensor:
        """How much each unit atom explains of the residuals r [n, d], [n, m]; -inf for the atoms `without` in use."""
        c = (r.to(self.x.dtype) @ self.atoms.T).mul_(self.scale)
        c = c if self.nonneg else c.abs_()
        if without is None or used is None:
            return c
        c = torch.nn.functional.pad(c, (0, 1))
        return c.scatter_(1, torch.where(used, without, c.shape[1] - 1), -torch.inf)[:, :-1]

    def codes(self, values: Tensor, indices: Tensor) -> SparseCodes:
        """Codes of the atoms from those of the unit atoms, [n, k] each, in any order."""
        values = (values * self.scale[indices]).to(self.x.dtype)
        return SparseCodes.packed(values, indices, len(self.atoms))

    def support(self, more: int = 0) -> Support:
        return Support(self.x, self.atoms, self.scale, min(self.most + more, len(self.atoms)), self.nonneg)


def omp(p: KSparse) -> SparseCodes:
    """Orthogonal matching pursuit (Pati et al. 1993), nonnegative as Bruckstein, Elad & Zibulevsky (2008)."""
    s, noise = p.support(), p.noise
    for step in range(p.most):
        value, atom = p.correlations(s.residual(), s.S, s.used).max(1)
        s.enter(atom, (value > noise) & (step < p.k))
    return p.codes(s.u, s.S)


def ompr(p: KSparse) -> SparseCodes:
    """OMP with replacement (Jain, Tewari & Dhillon 2011), from z0 or from nothing.

    In a round the ENTER atoms that correlate most with the residual enter; then, while more than k are in, the one
    that is missed least leaves. After a round that does not help a row exchanges half as many from then on; it ends
    when a single one did not help, or after the rounds that it has, and gets the best codes that it had.
    """
    s = p.support(ENTER)
    if p.z0 is not None:
        start(p, s)
    best, u, S = s.explained, s.u, s.S.clone()
    enter, least = torch.full_like(p.k, ENTER), GAIN * s.x.square().sum(1)
    for _ in range(ROUNDS if p.rounds is None else p.rounds):
        c = p.correlations(s.residual(), s.S, s.used)
        value, atom = c.topk(min(ENTER, c.shape[1]), dim=1)
        for a in range(value.shape[1]):
            s.enter(atom[:, a], (a < enter) & (value[:, a] > p.noise))
        while bool((full := s.used.sum(1) > p.k).any()):
            s.leave(full)
        more = s.explained
        better = (more > best) & (enter > 0)
        enter = torch.where(more > best + least, enter, enter // 2)
        best = torch.where(better, more, best)
        u, S = (torch.where(better.unsqueeze(1), new, old) for new, old in ((s.u, u), (s.S, S)))
        if not bool(enter.any()):
            break
    return p.codes(u, S)


def start(p: KSparse, s: Support) -> None:
    """Least squares on the support of z0: atoms enter, the largest codes first, until none explains any more."""
    assert p.z0 is not None
    for _ in range(PASSES):
        before = s.used.clone()
        for a in range(p.z0.values.shape[1]):
            s.enter(p.z0.indices[:, a], p.z0.values[:, a] != 0)
        if bool((before == s.used).all()):
            break


def mp(p: KSparse) -> SparseCodes:
    """Matching pursuit by the rule of SAELens's MatchingPursuitSAE, for unit atoms.

    The atom that correlates most gains that correlation as code, and the residual loses it. A row ends when the atom
    was in already (that last gain counts), when the residual's norm is below SMALL, or when a (k+1)-th would enter.
    """
    u, S, used, r, active = _empty(p)
    for _ in range(p.most + 1):
        value, atom = p.correlations(r).max(1, keepdim=True)
        known = used & (atom == S)
        new, count = ~known.any(1, keepdim=True), used.sum(1, keepdim=True)
        active = active & (value > 0) & (~new | (count < p.k.unsqueeze(1)))
        slot = torch.where(new, count.clamp_max(p.most - 1), known.to(torch.int8).argmax(1, keepdim=True))
        a = p.atoms[atom.squeeze(1)] * p.scale[atom]
        gain = torch.where(active, (a * r).sum(1, keepdim=True), 0)
        u.scatter_add_(1, slot, gain)
        S.scatter_(1, slot, torch.where(active, atom, S.gather(1, slot)))
        used.scatter_(1, slot, active | used.gather(1, slot))
        r = r - gain * a
        active = active & new & (r.norm(dim=1, keepdim=True) >= SMALL)
    return p.codes(u, S)


def gradient(p: KSparse) -> SparseCodes:
    """Gradient pursuit (Blumensath & Davies 2008): the best atom enters, then one gradient step on the support.

    The step is the best one along the gradient; nonnegative codes are cut off at zero after it.
    """
    u, S, used, r, active = _empty(p)
    A = r.new_zeros(*S.shape, r.shape[1])
    noise = p.noise.unsqueeze(1)
    for step in range(p.most):
        value, atom = p.correlations(r, S, used).max(1, keepdim=True)
        active = (value > noise) & (step < p.k.unsqueeze(1))
        S[:, step : step + 1], used[:, step : step + 1] = torch.where(active, atom, 0), active
        A[:, step] = torch.where(active, p.atoms[atom.squeeze(1)] * p.scale[atom], 0)
        slope = torch.where(used & active, (A @ r.unsqueeze(2)).squeeze(2), 0)
        along = (slope.unsqueeze(1) @ A).squeeze(1)
        size = slope.square().sum(1, keepdim=True) / along.square().sum(1, keepdim=True).clamp_min(1e-30)
        u = u + size * slope
        u = u.clamp_min(0) if p.nonneg else u
        r = p.x - (u.unsqueeze(1) @ A).squeeze(1)
    return p.codes(u, S)


def _empty(p: KSparse) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes and atoms [n, k], which slots are in use, the residual [n, d], and which rows are not finished [n, 1]."""
    u = p.x.new_zeros(len(p.x), p.most)
    S, used = torch.zeros_like(u, dtype=torch.long), torch.zeros_like(u, dtype=torch.bool)
    return u, S, used, p.x.clone(), torch.ones_like(used[:, :1])
