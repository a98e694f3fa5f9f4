"""A proximal gradient step fused into the product: codes are read once and written once. Twin: reference.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.kernels.gpu.tile import tile_of, tile_product, tiles


@triton.jit
def _prox_step(
    z, r, atoms, t, out, n, m, d, step, t_stride,
    NONNEG: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    rows, cols = tile_of(n, m, BN, BM)
    g = tile_product(r, atoms, rows, cols, n, m, d, PRECISION, BN, BM, BD)
    inside = (rows[:, None] < n) & (cols[None, :] < m)
    at = rows.to(tl.int64)[:, None] * m + cols[None, :]
    u = tl.load(z + at, mask=inside, other=0.0) + step * g
    shrink = tl.load(t + rows * t_stride, mask=rows < n, other=0.0)[:, None]
    if NONNEG:
        u = tl.maximum(u - shrink, 0.0)
    else:
        u = u - tl.minimum(tl.maximum(u, -shrink), shrink)
    tl.store(out + at, u, mask=inside)


def prox_step(
    z: Tensor, r: Tensor, atoms: Tensor, t: Tensor, step: float, nonneg: bool, out: Tensor | None, precision: str
) -> Tensor:
    """prox_t(z + step r D^T), [n, m]; t [n, 1] or [1, 1]. Every tile reads only its own codes, so `out` may be z."""
    z, t = z.contiguous(), t.contiguous()
    out = out if out is not None and out.is_contiguous() else torch.empty_like(z)
    (n, m), launch = z.shape, tiles(precision)
    if z.numel():
        grid = (triton.cdiv(n, launch["BN"]) * triton.cdiv(m, launch["BM"]),)
        each = int(t.numel() > 1)
        _prox_step[grid](
            z, r.contiguous(), atoms.contiguous(), t, out, n, m, r.shape[1], step, each, NONNEG=nonneg, **launch
        )
    return out
