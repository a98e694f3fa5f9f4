"""Working sets of a whole block of tokens at once, through the operations: `working_set` on a GPU, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from repro import ops
from repro.codes import SparseCodes
from repro.kernels.precision import torch_products
from repro.solvers.base import State, largest_codes
from repro.solvers.objective import Certificate, certificate_of
from repro.solvers.problem import Lasso

NUMBERS = {"cpu": 2**22, "cuda": 2**29}  # of gathered atoms and Gram matrices at a time
STEPS_A_SLOT = 8  # coordinate steps a pass may take, for each atom in the working set


class BatchedState(State):
    """Codes of a block, their residuals r [b, d] in float64, and the proof of where every token stands.

    A pass: correlations of all atoms, the worst violators enter, coordinate descent on the Gram matrix of support and
    entrants to `inner` times the gap, a fresh residual and certificate in float64. Float64 atoms are kept in
    `Lasso.shared`.
    """

    def __init__(self, problem: Lasso, z0: Tensor | SparseCodes | None, first: int, grow: float, inner: float):
        self.problem, self.first, self.grow, self.inner = problem, first, grow, inner
        if "wide" not in problem.shared:
            problem.shared["wide"] = problem.atoms.double()
        self.wide: Tensor = problem.shared["wide"]
        self.x = problem.x.double()
        self.lam = torch.as_tensor(problem.lam, dtype=torch.float64, device=problem.device).expand(problem.n)
        self.z = largest_codes(problem, z0)
        self._prove()

    def _prove(self) -> None:
        values = self.z.values.double()
        self.r = self.x - ops.decode(values, self.z.indices, self.wide)
        norm = values.abs().sum(1)
        self.proof = certificate_of(self.x, self.r, norm, self.wide, self.lam, self.problem.nonneg)

    def _sets(self) -> tuple[Tensor, Tensor]:
        """Atoms of support and entrants [b, w], worst violators first, and which slots are in use."""
        p, W, on = self.problem, self.z.indices, self.z.values != 0
        room = max(self.first, int(self.grow * float(on.sum(1).double().mean()))) if len(W) else 1
        c = self.r.to(p.x.dtype) @ p.atoms.T
        c = c if p.nonneg else c.abs_()
        c.scatter_add_(1, W, torch.where(on, -torch.inf, 0.0).to(c.dtype))  # nothing enters twice; padding adds 0
        value, entrants = c.topk(min(room, p.m), dim=1)
        W, on = torch.cat([W, entrants], 1), torch.cat([on, value > self.lam.unsqueeze(1)], 1)
        order = on.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
        order = order[:, : max(1, int(on.sum(1).max()) if len(on) else 1)]
        return W.gather(1, order), on.gather(1, order)

    def advance(self) -> None:
        p, device = self.problem, self.problem.device
        with torch_products(device, "float32"):
            W, on = self._sets()
            w, d = W.shape[1], p.x.shape[1]
            known = min(w, self.z.values.shape[1])  # the support comes first in W, in its own order
            start = torch.nn.functional.pad(self.z.values[:, :known], (0, w - known))
            U, r, rr = torch.empty_like(start), self.r.to(p.x.dtype), self.r.square().sum(1)
            size = max(1, NUMBERS.get(device.type, 2**22) // (w * (w + d)))
            for first in range(0, len(U), size):
                rows = slice(first, first + size)
                atoms = p.atoms[W[rows]].mul_(on[rows].unsqueeze(2))
                q = (atoms @ r[rows].unsqueeze(2)).squeeze(2)
                U[rows], _ = ops.coordinate_descent(
                    atoms @ atoms.mT, start[rows], q, self.lam[rows], p.nonneg,
                    target=self.inner * self.proof.gap[rows], energy=rr[rows], steps=STEPS_A_SLOT * w,
                )  # fmt: skip
        self.z = SparseCodes.packed(U, W, p.m)
        self._prove()

    def codes(self) -> SparseCodes:
        return self.z

    def certificate(self) -> Certificate:
        return self.proof

    def keep(self, rows: Tensor) -> None:
        self.problem = self.problem[rows]
        self.x, self.lam, self.r, self.z = self.x[rows], self.lam[rows], self.r[rows], self.z[rows]
        self.proof = Certificate(*(field[rows] for field in self.proof))
