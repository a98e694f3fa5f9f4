"""Sparse decode and its gradients for the GPU. Twin: reference.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.kernels.gpu.tile import INTERPRETED

SLOTS = 8  # rows that are gathered at a time
CHUNK = 4 if INTERPRETED.value else 128  # nonzeros of a latent that one program sums


@triton.jit
def _forward(values, indices, atoms, out, k, d, BK: tl.constexpr, BD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BD + tl.arange(0, BD)
    acc = tl.zeros([BD], dtype=out.dtype.element_ty)
    for start in range(0, k, BK):
        slots = start + tl.arange(0, BK)
        v = tl.load(values + row * k + slots, mask=slots < k, other=0.0)
        i = tl.load(indices + row * k + slots, mask=slots < k, other=0)
        a = tl.load(atoms + i[:, None] * d + cols[None, :], mask=(v != 0)[:, None] & (cols < d)[None, :], other=0.0)
        acc += tl.sum(v[:, None] * a, axis=0)
    tl.store(out + row * d + cols, acc, mask=cols < d)


@triton.jit
def _backward_values(grad, indices, atoms, out, k, d, BK: tl.constexpr, BD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BK + tl.arange(0, BK)
    i = tl.load(indices + row * k + slots, mask=slots < k, other=0)
    acc = tl.zeros([BK], dtype=out.dtype.element_ty)
    for start in range(0, d, BD):
        cols = start + tl.arange(0, BD)
        g = tl.load(grad + row * d + cols, mask=cols < d, other=0.0)
        a = tl.load(atoms + i[:, None] * d + cols[None, :], mask=(slots < k)[:, None] & (cols < d)[None, :], other=0.0)
        acc += tl.sum(a * g[None, :], axis=1)
    tl.store(out + row * k + slots, acc, mask=slots < k)


@triton.jit
def _backward_atoms(values, rows, begin, end, latent, alone, grad, out, d, BK: tl.constexpr, BD: tl.constexpr):
    item = tl.program_id(0)
    cols = tl.program_id(1) * BD + tl.arange(0, BD)
    first, last = tl.load(begin + item), tl.load(end + item)
    acc = tl.zeros([BD], dtype=out.dtype.element_ty)
    for start in range(first, last, BK):
        at = start + tl.arange(0, BK)
        v = tl.load(values + at, mask=at < last, other=0.0)
        i = tl.load(rows + at, mask=at < last, other=0)
        g = tl.load(grad + i[:, None] * d + cols[None, :], mask=(at < last)[:, None] & (cols < d)[None, :], other=0.0)
        acc += tl.sum(v[:, None] * g, axis=0)
    to = out + tl.load(latent + item) * d + cols
    some, single = (cols < d) & (first < last), tl.load(alone + item)
    tl.store(to, acc, mask=some & single)
    tl.atomic_add(to, acc, mask=some & (single == 0))


def _width(d: int) -> dict[str, int]:
    """Columns of a program and its warps: each thread holds four neighbouring numbers of a row."""
    width = min(triton.next_power_of_2(d), 16 if INTERPRETED.value else 256)
    return {"BD": width, "num_warps": max(1, width // 128)}


def forward(values: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    (n, k), d = values.shape, atoms.shape[1]
    out = torch.empty(n, d, dtype=atoms.dtype, device=atoms.device)
    launch = _width(d)
    if out.numel():
        grid = (n, triton.cdiv(d, launch["BD"]))
        _forward[grid](values.contiguous(), indices.contiguous(), atoms.contiguous(), out, k, d, BK=SLOTS, **launch)
    return out


def backward_values(grad: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    (n, k), d = indices.shape, atoms.shape[1]
    out = torch.empty(n, k, dtype=atoms.dtype, device=atoms.device)
    if out.numel():
        grid = (n, triton.cdiv(k, SLOTS))
        _backward_values[grid](
            grad.contiguous(), indices.contiguous(), atoms.contiguous(), out, k, d, BK=SLOTS, **_width(d)
        )
    return out


def backward_atoms(grad: Tensor, values: Tensor, indices: Tensor, m: int) -> Tensor:
    """A sort by latent, then sums of at most CHUNK nonzeros: only latents that have more of them need atomics."""
    (n, k), d, device = values.shape, grad.shape[1], grad.device
    out = torch.zeros(m, d, dtype=grad.dtype, device=device)
    if not (out.numel() and values.numel()):
        return out
    flat = values.reshape(-1)
    latents, order = torch.where(flat != 0, indices.reshape(-1), m).int().sort(stable=True)  # padding comes last
    begin = torch.searchsorted(latents, torch.arange(m + 1, dtype=torch.int32, device=device))
    chunks = ((begin.diff() + CHUNK - 1) // CHUNK).clamp_min(1)
    ends = chunks.cumsum(0)
    items = torch.arange(m + n * k // CHUNK + 1, device=device)  # a bound, because the number itself is not here
    real = items < ends[-1]
    latent = torch.searchsorted(ends, items, right=True).clamp_max(m - 1)
    first = begin[latent] + (items - ends[latent] + chunks[latent]) * CHUNK
    last = torch.minimum(first + CHUNK, begin[latent + 1])
    launch = _width(d)
    _backward_atoms[(len(items), triton.cdiv(d, launch["BD"]))](
        flat[order], order // k, torch.where(real, first, 0), torch.where(real, last, 0), latent, chunks[latent] == 1,
        grad.contiguous(), out, d, BK=SLOTS, **launch,
    )  # fmt: skip
    return out
