"""Sums over positive codes by latent for the GPU: one pass, float64 atomics. Twin: reference.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.kernels.gpu.tile import INTERPRETED

BLOCK = 64 if INTERPRETED.value else 1024


@triton.jit
def _firing_stats(values, indices, y, out, size, k, m, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(values + at, mask=at < size, other=0.0).to(tl.float64)
    on = z > 0
    latent = tl.load(indices + at, mask=on, other=0)
    label = tl.load(y + at // k, mask=on, other=0.0)
    tl.atomic_add(out + latent, tl.full([BLOCK], 1.0, tl.float64), mask=on)
    tl.atomic_add(out + m + latent, z, mask=on)
    tl.atomic_add(out + 2 * m + latent, z * z, mask=on)
    tl.atomic_add(out + 3 * m + latent, z * label, mask=on)


def firing_stats(values: Tensor, indices: Tensor, m: int, y: Tensor) -> Tensor:
    """Rows of the result [4, m], float64: count, sum z, sum z^2, sum z y over codes z > 0; y [n] float64."""
    out = torch.zeros(4, m, dtype=torch.float64, device=values.device)
    size = values.numel()
    if size:
        _firing_stats[(triton.cdiv(size, BLOCK),)](
            values.contiguous(), indices.contiguous(), y.contiguous(), out, size, values.shape[1], m, BLOCK=BLOCK
        )
    return out
