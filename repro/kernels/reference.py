"""Every operation in plain torch, on any device: the readable twin of the compiled kernels in cpu/ and gpu/."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repro.kernels.pack import pack
from repro.kernels.precision import operand, torch_products

NUMBERS = {"cpu": 2**22, "cuda": 2**28}
"""Pre-activations that are held at a time: what a CPU's cache holds, what keeps a GPU busy; 256 rows at least."""

Select = Callable[[Tensor], tuple[Tensor, Tensor]]
CHECK = 16  # steps between two looks at the duality gap


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


def in_blocks(x: Tensor, W: Tensor, b: Tensor, precision: str, select: Select) -> tuple[Tensor, Tensor]:
    """`select` on blocks of x @ W + b; blocks of different width are padded with zeros."""
    m = W.shape[1]
    block, parts = max(256, NUMBERS.get(x.device.type, 2**22) // m), []
    pre = torch.empty(min(block, len(x)), m, dtype=x.dtype, device=x.device)
    with torch_products(x.device, precision):
        x, W = operand(x, precision), operand(W, precision)
        for start in range(0, max(len(x), 1), block):
            rows = x[start : start + block]
            parts.append(select(torch.mm(rows, W, out=pre[: len(rows)]).add_(b)))
    width = max(v.shape[1] for v, _ in parts)
    values, indices = (
        torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in ps]) for ps in zip(*parts)
    )
    return values, indices


def top_k(
    x: Tensor, W: Tensor, b: Tensor, sizes: Sequence[int], ks: Sequence[int], precision: str
) -> tuple[Tensor, Tensor]:
    """ReLU of the ks[g] largest of each row of x @ W + b in every group g of neighbouring latents."""

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        values, columns, first = [], [], 0
        for part, size, k in zip(pre.split(list(sizes), 1), sizes, ks, strict=True):
            best = part.topk(k, dim=1, sorted=False)
            values.append(best.values.relu())
            columns.append(best.indices + first)
            first += size
        return pack(torch.cat(values, 1), torch.cat(columns, 1), pre.shape[1])

    return in_blocks(x, W, b, precision, select)


def above(x: Tensor, W: Tensor, b: Tensor, threshold: float, precision: str) -> tuple[Tensor, Tensor]:
    """The entries of x @ W + b above max(threshold, 0), strictly."""
    return in_blocks(x, W, b, precision, lambda pre: nonzeros(torch.where(pre > max(threshold, 0.0), pre, 0)))


def gated(
    x: Tensor, W: Tensor, b: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """1[p > gate] ReLU(scale p + shift) of p = x @ W + b; gate, scale and shift [m]."""
    return in_blocks(x, W, b, precision, lambda pre: nonzeros((pre > gate) * (scale * pre + shift).relu_()))


def nonzeros(z: Tensor) -> tuple[Tensor, Tensor]:
    """Values and columns [n, k] of the nonzeros of z [n, m], ascending, padded with 0; k = the largest count, or 1."""
    n = len(z)
    l0 = (z != 0).sum(1)
    rows, cols = torch.nonzero(z, as_tuple=True)  # row-major, so columns ascend within a row
    start = torch.zeros(n + 1, dtype=torch.long, device=z.device)
    start[1:] = l0.cumsum(0)
    slot = torch.arange(len(rows), device=z.device) - start[rows]
    values = torch.zeros(n, max(1, int(l0.max()) if n else 1), dtype=z.dtype, device=z.device)
    indices = torch.zeros(values.shape, dtype=torch.long, device=z.device)
    values[rows, slot] = z[rows, cols]
    indices[rows, slot] = cols
    return values, indices


def decode(values: Tensor, indices: Tensor, atoms: Tensor) -> Tensor:
    """sum_j values[:, j] * atoms[indices[:, j]], [n, d]."""
    return torch.nn.functional.embedding_bag(indices, atoms, per_sample_weights=values, mode="sum")


def firing_stats(values: Tensor, indices: Tensor, m: int, y: Tensor) -> Tensor:
    """Rows of the result [4, m], float64: count, sum z, sum z^2, sum z y over codes z > 0; y [n] float64."""
    z, flat = values.clamp_min(0).double(), indices.flatten()

    def by_latent(t: Tensor) -> Tensor:
        return torch.zeros(m, dtype=torch.float64, device=z.device).index_add_(0, flat, t.flatten())

    return torch.stack([by_latent((z > 0).double()), by_latent(z), by_latent(z * z), by_latent(z * y[:, None])])


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
