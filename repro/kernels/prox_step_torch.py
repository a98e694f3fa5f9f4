"""A proximal gradient step in plain torch: one product, then a pass or two over the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.kernels.precision import operand, torch_products


def prox_step(
    z: Tensor, r: Tensor, atoms: Tensor, t: Tensor, step: float, nonneg: bool, out: Tensor | None, precision: str
) -> Tensor:
    """prox_t(z + step r D^T), [n, m]; t [n, 1] or [1, 1]. `out` may be overwritten, and be z itself."""
    with torch_products(z.device, precision):
        right = operand(atoms, precision).T
        u = torch.addmm(z, operand(r, precision), right, alpha=step, out=out)
    if nonneg:
        return u.sub_(t).clamp_min_(0)
    if t.numel() == 1:
        return torch.nn.functional.softshrink(u, float(t))
    return u.sub_(u.clamp(-t, t))
