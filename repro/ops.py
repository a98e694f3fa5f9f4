"""Public tensor operations; the tensor in hand chooses the implementation.

`impl`: "auto" takes Triton for float32 on a GPU, numba for float32 and float64 on a CPU, each where it is installed
and has the operation, and plain torch for everything else. A name ("torch", "numba", "triton") never falls back: what
it cannot do raises BadInput. `precision` says how factors of a product are rounded: "float32" not at all, "tf32x3"
hardly, "tf32" and "bf16" to 10 and 7 bits, where the caller's tolerance or certificate covers it; sums are float32.
A CPU has no TF32 units and multiplies in full instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.codes import SparseCodes
from repro.kernels.dispatch import decode, kernel, nonzeros
from repro.kernels.encode_batch import batch_top_k
from repro.kernels.precision import PRECISIONS

__all__ = [
    "FiringStats", "coordinate_descent", "decode", "encode_above", "encode_batch_topk", "encode_gated", "encode_topk",
    "firing_stats", "nonzeros", "prox_step",
]  # fmt: skip


class FiringStats(NamedTuple):
    """Sums over the positive codes of each latent, [m]: all that streaming metrics need of codes."""

    fired: Tensor
    """Rows on which z > 0, int64."""
    z: Tensor
    """Sum of z, float64."""
    zz: Tensor
    """Sum of z^2, float64."""
    zy: Tensor
    """Sum of z y, float64; 0 without labels."""


@torch.no_grad()
def prox_step(
    z: Tensor,
    r: Tensor,
    atoms: Tensor,
    lam: float | Tensor,
    step: float,
    nonneg: bool = True,
    *,
    out: Tensor | None = None,
    impl: str = "auto",
    precision: str = "float32",
) -> Tensor:
    """prox_{step lam}(z + step r D^T), one step of proximal gradient descent, [n, m]; no gradients.

    z [n, m]; residuals r = x - z D [n, d]; atoms D [m, d]; lam a number or [n]; z >= 0 if nonneg, else soft
    thresholding. `out` [n, m] is memory that may be overwritten, z itself if it is not needed any more.
    """
    _check_product(z, r, atoms, precision)
    if z.shape != (len(r), len(atoms)) or r.shape[1] != atoms.shape[1]:
        raise BadInput(
            f"z {list(z.shape)}, r {list(r.shape)} and atoms {list(atoms.shape)} must be [n, m], [n, d] and [m, d]."
        )
    if out is not None and (out.shape, out.dtype, out.device) != (z.shape, z.dtype, z.device):
        raise BadInput(f"out is {list(out.shape)} {out.dtype} on {out.device}; it must be like z, or left out.")
    t = _per_row(lam, "lam", z).unsqueeze(1) * step
    return kernel("prox_step", impl, z, r, atoms).prox_step(z, r, atoms, t, step, nonneg, out, precision)


@torch.no_grad()
def encode_topk(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int | Sequence[int],
    sizes: Sequence[int] | None = None,
    *,
    impl: str = "auto",
    precision: str = "float32",
) -> SparseCodes:
    """ReLU of the k largest of each row of x W_enc + b_enc, without the matrix [n, m]; no gradients.

    x [n, d], W_enc [d, m], b_enc [m]. With `sizes` of groups of neighbouring latents, the k[g] largest of every
    group. Columns ascend. Equal scores: the leftmost is kept (plain torch: any).
    """
    groups, ks = ([W_enc.shape[1]], [k]) if isinstance(k, int) else (list(sizes or ()), list(k))
    _check_encoder(x, W_enc, b_enc, precision)
    if sum(groups) != W_enc.shape[1] or len(groups) != len(ks):
        raise BadInput(f"sizes {groups} must add up to the {W_enc.shape[1]} latents, with one k for each of them.")
    if any(not 1 <= each <= size for each, size in zip(ks, groups)):
        raise BadInput(f"k = {k} must lie between 1 and the number of latents, {groups}.")
    encode = kernel("encode", impl, x, W_enc, b_enc)
    values, indices = encode.top_k(x, W_enc.detach(), b_enc.detach(), groups, ks, precision)
    return SparseCodes(values, indices, W_enc.shape[1])


@torch.no_grad()
def encode_above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: float | Tensor = 0.0,
    *,
    impl: str = "auto",
    precision: str = "float32",
) -> SparseCodes:
    """The entries of x W_enc + b_enc above max(threshold, 0), strictly, as codes; no gradients.

    x [n, d], W_enc [d, m], b_enc [m]; threshold a number or one for every latent [m]. With 0 it is the ReLU encoder.
    """
    if isinstance(threshold, Tensor) and threshold.ndim > 0:
        one = torch.ones_like(b_enc)
        return encode_gated(x, W_enc, b_enc, threshold, one, one - 1, impl=impl, precision=precision)
    _check_encoder(x, W_enc, b_enc, precision)
    encode = kernel("encode", impl, x, W_enc, b_enc)
    values, indices = encode.above(x, W_enc.detach(), b_enc.detach(), float(threshold), precision)
    return SparseCodes(values, indices, W_enc.shape[1])


@torch.no_grad()
def encode_gated(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    gate: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    impl: str = "auto",
    precision: str = "float32",
) -> SparseCodes:
    """1[p > gate] ReLU(scale p + shift) of p = x W_enc + b_enc as codes, without the matrix [n, m]; no gradients.

    x [n, d], W_enc [d, m]; b_enc, gate, scale and shift [m].
    """
    _check_encoder(x, W_enc, b_enc, precision)
    gates = {"gate": gate, "scale": scale, "shift": shift}
    for name, t in gates.items():
        if t.shape != b_enc.shape:
            raise BadInput(f"{name} must be one number a latent, {list(b_enc.shape)}, not {list(t.shape)}.")
    _check_same(x, *gates.values())
    arguments = [t.detach() for t in (W_enc, b_enc, *gates.values())]
    values, indices = kernel("encode", impl, x, W_enc, b_enc).gated(x, *arguments, precision)
    return SparseCodes(values, indices, W_enc.shape[1])


@torch.no_grad()
def encode_batch_topk(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, count: int, *, impl: str = "auto", precision: str = "float32"
) -> SparseCodes:
    """The `count` largest positive entries of the whole of x W_enc + b_enc, fewer if fewer are positive; no gradients.

    x [n, d], W_enc [d, m], b_enc [m]. Two passes over the product, seldom more; never the matrix [n, m]. Of equal
    entries the first rows' leftmost are kept.
    """
    _check_encoder(x, W_enc, b_enc, precision)
    if count < 0:
        raise BadInput(f"count must be at least 0, not {count}.")
    encode, m = kernel("encode", impl, x, W_enc, b_enc), W_enc.shape[1]

    def above(rows: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        values, columns = encode.above(rows, W_enc.detach(), b_enc.detach(), threshold, precision)
        return values, columns

    return SparseCodes(*batch_top_k(x, m, count, above), m)


@torch.no_grad()
def firing_stats(codes: SparseCodes, y: Tensor | None = None, *, impl: str = "auto") -> FiringStats:
    """Counts, sum z, sum z^2 and sum z y of each latent over the rows where z > 0, in one pass; y [n] are labels."""
    n = len(codes)
    y = torch.zeros(n, device=codes.values.device) if y is None else y
    if y.shape != (n,):
        raise BadInput(f"y must be one label a row, [{n}], not {list(y.shape)}.")
    arguments = codes.values, codes.indices, codes.m, y.to(codes.values.device, torch.float64)
    sums = kernel("firing_stats", impl, codes.values).firing_stats(*arguments)
    return FiringStats(sums[0].long(), sums[1], sums[2], sums[3])


@torch.no_grad()
def coordinate_descent(
    G: Tensor,
    u: Tensor,
    q: Tensor,
    lam: float | Tensor,
    nonneg: bool = True,
    *,
    target: float | Tensor | None = None,
    energy: float | Tensor | None = None,
    steps: int = 1000,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """min over u of 1/2 u^T G u - b^T u + lam ||u||_1 with b = q + G u, each row by itself: greedy coordinate steps.

    Gram matrices of the atoms G [n, w, w], codes to start from u [n, w], their correlations q = D r [n, w]; lam a
    number or [n]; u >= 0 if nonneg. A row ends where its restricted duality gap, which needs energy = ||r||^2 [n], is
    at most `target` (if one is given), or where nothing moves, or after about `steps` steps. Returns the codes and
    their correlations. A slot whose G is zero stays at zero.
    """
    n, w = u.shape if u.ndim == 2 else (-1, -1)
    if G.shape != (n, w, w) or q.shape != u.shape:
        raise BadInput(
            f"G {list(G.shape)}, u {list(u.shape)} and q {list(q.shape)} must be [n, w, w], [n, w] and [n, w]."
        )
    _check_same(G, u, q)
    if steps < 0:
        raise BadInput(f"steps must be at least 0, not {steps}.")
    if target is not None and energy is None:
        raise BadInput("A target for the gap needs the energy ||r||^2 of each row's residual.")
    energy, target = 0.0 if energy is None else energy, -torch.inf if target is None else target
    named = (lam, "lam"), (energy, "energy"), (target, "target")
    rows = [_per_row(value, name, u).expand(n).contiguous() for value, name in named]
    return kernel("coordinate_descent", impl, G, u, q).coordinate_descent(G, u, q, *rows, nonneg, steps)


def _check_product(a: Tensor, b: Tensor, c: Tensor, precision: str) -> None:
    if precision not in PRECISIONS:
        raise BadInput(
            f"No precision '{precision}'{nearest(precision, PRECISIONS)}; there are {', '.join(PRECISIONS)}."
        )
    _check_same(a, b, c)


def _check_same(*tensors: Tensor) -> None:
    if len({(t.dtype, t.device) for t in tensors}) > 1:
        kinds = ", ".join(f"{t.dtype} on {t.device}" for t in tensors)
        raise BadInput(f"The tensors must share a dtype and a device, but are {kinds}; move them together with .to().")


def _check_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor, precision: str) -> None:
    _check_product(x, W_enc, b_enc, precision)
    if x.ndim != 2 or W_enc.ndim != 2 or x.shape[1] != len(W_enc) or b_enc.shape != W_enc.shape[1:]:
        shapes = f"x {list(x.shape)}, W_enc {list(W_enc.shape)} and b_enc {list(b_enc.shape)}"
        raise BadInput(f"{shapes} must be [n, d], [d, m] and [m].")


def _per_row(value: float | Tensor, name: str, like: Tensor) -> Tensor:
    """A number as [1], one number a row as [n], in the dtype and on the device of `like` [n, ...]."""
    rows = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1)
    if len(rows) not in (1, len(like)):
        raise BadInput(f"{name} must be a number or one value per row ({len(like)}), not {len(rows)} values.")
    return rows
