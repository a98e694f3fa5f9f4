"""Least squares on a support that atoms enter and leave, a block of rows at a time; plain torch, any device."""

from __future__ import annotations

import torch
from torch import Tensor

DEPENDENT = 1e-8  # an atom whose squared distance from the span of the support is less does not enter


class Support:
    """Up to `width` unit atoms a row, their codes u, and H = (A A^T)^-1 of the atoms A in use.

    x [b, d]; atoms [m, d] times scale [m] are unit atoms, or zero. S, u, used [b, width]; A [b, width, d];
    H [b, width, width]. All numbers are float64; slots that are not in use are zero in u and H.
    After each operation u is the least-squares solution on the support, the nonnegative one if nonneg: atoms whose
    code would be negative leave as in the inner loop of Lawson & Hanson (1974).
    """

    def __init__(self, x: Tensor, atoms: Tensor, scale: Tensor, width: int, nonneg: bool):
        b, d = x.shape
        self.x, self.atoms, self.scale, self.nonneg = x.double(), atoms, scale.double(), nonneg
        new = self.x.new_zeros
        self.S = torch.zeros(b, width, dtype=torch.long, device=x.device)
        self.used = torch.zeros(b, width, dtype=torch.bool, device=x.device)
        self.u, self.b = new(b, width), new(b, width)
        self.A, self.H = new(b, width, d), new(b, width, width)

    @property
    def explained(self) -> Tensor:
        """||x||^2 - ||r||^2 of each row, [b]."""
        return (self.u * self.b).sum(1)

    def residual(self) -> Tensor:
        """x - u A, [b, d]."""
        return self.x - (self.u.unsqueeze(1) @ self.A).squeeze(1)

    def enter(self, atom: Tensor, which: Tensor) -> None:
        """Atom [b] enters where `which` [b] holds, unless it is in, depends on those that are, or would be negative.

        The inverse of the bordered Gram matrix is H + (v - e)(v - e)^T / left with v = H g, g the atom's products with
        the support, e its slot and left = 1 - g v.
        """
        slot = (~self.used).to(torch.int8).argmax(1, keepdim=True)
        a = self.atoms[atom].double() * self.scale[atom].unsqueeze(1)
        b = (a * self.x).sum(1)
        g = torch.where(self.used, (self.A @ a.unsqueeze(2)).squeeze(2), 0)
        v = (self.H @ g.unsqueeze(2)).squeeze(2)
        left = (a * a).sum(1) - (g * v).sum(1)
        slope = b - (g * self.u).sum(1)
        which = which & (left > DEPENDENT) & ~self.used.all(1)
        if self.nonneg:
            which = which & (slope > 0)
        v.scatter_(1, slot, -1.0)
        sigma = torch.where(which, 1 / left, 0).unsqueeze(1)
        self.H.baddbmm_((sigma * v).unsqueeze(2), v.unsqueeze(1))
        goal = self.u - sigma * slope.unsqueeze(1) * v
        at = which.unsqueeze(1)
        for slots, values in ((self.S, atom), (self.b, b), (self.used, which)):
            slots.scatter_(1, slot, torch.where(at, values.unsqueeze(1), slots.gather(1, slot)))
        index = slot.unsqueeze(2).expand(-1, -1, a.shape[1])
        self.A.scatter_(1, index, torch.where(at.unsqueeze(2), a.unsqueeze(1), self.A.gather(1, index)))
        self._settle(goal)

    def leave(self, which: Tensor) -> None:
        """The atom without which the residual grows least, by u^2 / H_ii, leaves where `which` [b] holds."""
        h = self.H.diagonal(dim1=1, dim2=2)
        loss = torch.where(self.used, self.u.square() / h, torch.inf)
        self._settle(self._without(loss.argmin(1, keepdim=True), which, self.u))

    def _without(self, slot: Tensor, which: Tensor, goal: Tensor) -> Tensor:
        """Empty the slot [b, 1] where `which` [b] holds; returns what the codes `goal` become by least squares."""
        which = which.unsqueeze(1) & self.used.gather(1, slot)
        p = self.H.gather(2, slot.unsqueeze(2).expand(-1, self.H.shape[1], -1)).squeeze(2)
        h = torch.where(which, p.gather(1, slot), 1.0)
        p = torch.where(which, p, 0)
        goal = goal - p * goal.gather(1, slot) / h
        self.H.baddbmm_((p / h).unsqueeze(2), p.unsqueeze(1), alpha=-1)
        out = torch.zeros_like(self.used).scatter_(1, slot, which)
        self.H.masked_fill_(out.unsqueeze(1) | out.unsqueeze(2), 0)
        self.used = self.used & ~out
        self.u = self.u.masked_fill(out, 0)
        return goal.masked_fill(out, 0)

    def _settle(self, goal: Tensor) -> None:
        """Walk to the codes `goal` until one reaches zero; its atom leaves, the goal changes; on from there."""
        while self.nonneg:
            bad = self.used & (goal <= 0)
            which = bad.any(1)
            if not bool(which.any()):
                break
            ratio = torch.where(bad, self.u / (self.u - goal).clamp_min(1e-300), torch.inf)
            alpha, slot = ratio.min(1, keepdim=True)
            alpha = torch.where(which.unsqueeze(1), alpha.clamp_max(1), 0)
            self.u = (self.u + alpha * (goal - self.u)).clamp_min(0)
            goal = self._without(slot, which, goal)
        self.u = goal
