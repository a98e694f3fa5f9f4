"""Public tensor operations; the tensor in hand chooses the implementation.

`impl`: "auto" takes Triton for float32 on a GPU, numba for float32 and float64 on a CPU, each where it is installed
and has the operation, and plain torch for everything else. A name ("torch", "numba", "triton") never falls back: what
it cannot do raises BadInput. `precision` says how factors of a product are rounded: "float32" not at all, "tf32x3"
hardly, "tf32" and "bf16" to 10 and 7 bits, where the caller's tolerance or certificate covers it; sums are float32.
A CPU has no TF32 units and multiplies in full instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from repro.base.errors import BadInput, missing_extra, nearest
from repro.codes import SparseCodes
from repro.kernels.precision import PRECISIONS

IMPLEMENTATIONS = {
    "prox_step": ("torch", "triton"),
    "encode": ("torch", "numba", "triton"),
    "decode": ("torch", "numba", "triton"),
    "firing_stats": ("torch", "numba", "triton"),
    "nonzeros": ("torch", "numba"),
    "coordinate_descent": ("torch", "triton"),
}
"""Modules repro.kernels.{operation}_{implementation}. A product with a pass after it needs no numba; the compiled
solver of a CPU has a coordinate descent of its own (kernels/coordinate_descent.py)."""

DOUBLE = ("decode", "firing_stats", "coordinate_descent")
"""Operations that impl="triton" also takes in float64, which has no tensor cores in Triton."""


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
    t = torch.as_tensor(lam, dtype=z.dtype, device=z.device).reshape(-1, 1) * step
    if len(t) not in (1, len(z)):
        raise BadInput(f"lam must be a number or one value per row ({len(z)}), not {len(t)} values.")
    return _kernel("prox_step", impl, z, r, atoms).prox_step(z, r, atoms, t, step, nonneg, out, precision)


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
    _check_product(x, W_enc, b_enc, precision)
    _check_encoder(x, W_enc, b_enc)
    if sum(groups) != W_enc.shape[1] or len(groups) != len(ks):
        raise BadInput(f"sizes {groups} must add up to the {W_enc.shape[1]} latents, with one k for each of them.")
    if any(not 1 <= each <= size for each, size in zip(ks, groups)):
        raise BadInput(f"k = {k} must lie between 1 and the number of latents, {groups}.")
    kernel = _kernel("encode", impl, x, W_enc, b_enc)
    values, indices = kernel.top_k(x, W_enc.detach(), b_enc.detach(), groups, ks, precision)
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
    _check_product(x, W_enc, b_enc, precision)
    _check_encoder(x, W_enc, b_enc)
    kernel = _kernel("encode", impl, x, W_enc, b_enc)
    values, indices = kernel.above(x, W_enc.detach(), b_enc.detach(), float(threshold), precision)
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
    _check_product(x, W_enc, b_enc, precision)
    _check_encoder(x, W_enc, b_enc)
    gates = {"gate": gate, "scale": scale, "shift": shift}
    for name, t in gates.items():
        if t.shape != b_enc.shape:
            raise BadInput(f"{name} must be one number a latent, {list(b_enc.shape)}, not {list(t.shape)}.")
    _check_same(x, *gates.values())
    kernel = _kernel("encode", impl, x, W_enc, b_enc)
    arguments = [t.detach() for t in (W_enc, b_enc, *gates.values())]
    values, indices = kernel.gated(x, *arguments, precision)
    return SparseCodes(values, indices, W_enc.shape[1])


@torch.no_grad()
def encode_batch_topk(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, count: int, *, impl: str = "auto", precision: str = "float32"
) -> SparseCodes:
    """The `count` largest positive entries of the whole of x W_enc + b_enc, fewer if fewer are positive; no gradients.

    x [n, d], W_enc [d, m], b_enc [m]. Two passes over the product, seldom more; never the matrix [n, m]. Of equal
    entries the first rows' leftmost are kept.
    """
    from repro.kernels.encode_batch import batch_top_k

    if count < 0:
        raise BadInput(f"count must be at least 0, not {count}.")

    def above(rows: Tensor, threshold: float) -> SparseCodes:
        return encode_above(rows, W_enc, b_enc, threshold, impl=impl, precision=precision)

    return batch_top_k(x, W_enc.shape[-1], count, above)


def decode(values: Tensor, indices: Tensor, atoms: Tensor, *, impl: str = "auto") -> Tensor:
    """x_hat [n, d] = sum over the k slots of values [n, k] * atoms[indices [n, k]]; atoms [m, d].

    With gradients to values and atoms. Values take the dtype of the atoms; indices (int64) must lie in 0..m-1, which
    a GPU does not check. On a GPU the gradient of an atom that fires often is summed in no fixed order.
    """
    if values.shape != indices.shape or values.ndim != 2 or atoms.ndim != 2:
        raise BadInput(
            f"values {list(values.shape)}, indices {list(indices.shape)} and atoms {list(atoms.shape)} must be [n, k], "
            "[n, k] and [m, d]."
        )
    if not indices.is_cuda and indices.numel():
        low, high = (int(i) for i in indices.aminmax())
        if low < 0 or high >= len(atoms):
            raise BadInput(
                f"indices from {low} to {high} do not fit {len(atoms)} atoms; decode codes with the dictionary that "
                "they were made for."
            )
    values = values.to(atoms.dtype)
    kernel = _kernel("decode", impl, values, atoms)
    if hasattr(kernel, "decode"):
        return kernel.decode(values, indices, atoms)
    return _Decode.apply(values, indices, atoms, kernel)


class _Decode(torch.autograd.Function):
    """decode with the gradients that a kernel module brings along."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, atoms: Tensor, kernel: Any) -> Tensor:
        ctx.save_for_backward(values, indices, atoms)
        ctx.kernel = kernel
        return kernel.forward(values, indices, atoms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, atoms = ctx.saved_tensors
        to_values = ctx.kernel.backward_values(grad, indices, atoms) if ctx.needs_input_grad[0] else None
        to_atoms = ctx.kernel.backward_atoms(grad, values, indices, len(atoms)) if ctx.needs_input_grad[2] else None
        return to_values, None, to_atoms, None


@torch.no_grad()
def firing_stats(codes: SparseCodes, y: Tensor | None = None, *, impl: str = "auto") -> FiringStats:
    """Counts, sum z, sum z^2 and sum z y of each latent over the rows where z > 0, in one pass; y [n] are labels."""
    n = len(codes)
    y = torch.zeros(n, device=codes.values.device) if y is None else y
    if y.shape != (n,):
        raise BadInput(f"y must be one label a row, [{n}], not {list(y.shape)}.")
    kernel = _kernel("firing_stats", impl, codes.values)
    sums = kernel.firing_stats(codes.values, codes.indices, codes.m, y.to(codes.values.device, torch.float64))
    return FiringStats(sums[0].long(), sums[1], sums[2], sums[3])


@torch.no_grad()
def nonzeros(z: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Values and columns [n, k] of the nonzeros of dense codes z [n, m], padded with 0; k = the largest count, or 1."""
    if z.ndim != 2:
        raise BadInput(f"z must be [n, m], not {list(z.shape)}.")
    return _kernel("nonzeros", impl, z).nonzeros(z)


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
    given = {
        "lam": lam,
        "energy": 0.0 if energy is None else energy,
        "target": -torch.inf if target is None else target,
    }
    rows = {name: torch.as_tensor(t, dtype=u.dtype, device=u.device).reshape(-1) for name, t in given.items()}
    for name, t in rows.items():
        if len(t) not in (1, n):
            raise BadInput(f"{name} must be a number or one value per row ({n}), not {len(t)} values.")
    each = [t.expand(n).contiguous() for t in rows.values()]
    return _kernel("coordinate_descent", impl, G, u, q).coordinate_descent(G, u, q, *each, nonneg, steps)


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


def _check_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    if x.ndim != 2 or W_enc.ndim != 2 or x.shape[1] != len(W_enc) or b_enc.shape != W_enc.shape[1:]:
        shapes = f"x {list(x.shape)}, W_enc {list(W_enc.shape)} and b_enc {list(b_enc.shape)}"
        raise BadInput(f"{shapes} must be [n, d], [d, m] and [m].")


def _kernel(operation: str, impl: str, *tensors: Tensor) -> Any:
    """The module with this implementation of an operation; BadInput if it is missing or cannot take these tensors."""
    device, dtypes = tensors[0].device.type, {t.dtype for t in tensors}
    have = IMPLEMENTATIONS[operation]
    if impl == "auto":
        impl = "torch"
        if device == "cuda" and dtypes == {torch.float32} and importlib.util.find_spec("triton"):
            impl = "triton"
        elif device == "cpu" and dtypes <= {torch.float32, torch.float64} and importlib.util.find_spec("numba"):
            impl = "numba" if "numba" in have else "torch"
    if impl not in have:
        raise BadInput(f"{operation} has no impl '{impl}'{nearest(impl, have)}; there are auto, {', '.join(have)}.")
    if impl == "triton":
        _check_triton(operation, device, dtypes)
    if impl == "numba" and (device != "cpu" or not dtypes <= {torch.float32, torch.float64}):
        raise BadInput(f"impl='numba' takes float32 or float64 on the CPU, not {_named(dtypes)} on {device}.")
    try:
        return importlib.import_module(f"repro.kernels.{operation}_{impl}")
    except ImportError:
        raise missing_extra(impl, "cpu" if impl == "numba" else "gpu") from None


def _check_triton(operation: str, device: str, dtypes: set[torch.dtype]) -> None:
    interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false")
    if device != "cuda" and not interpreted:
        raise BadInput(
            f"impl='triton' needs tensors on a GPU, not on {device}: move them there, or set TRITON_INTERPRET=1 before "
            "Python starts to interpret the kernels slowly."
        )
    wide = {torch.float32, torch.float64} if operation in DOUBLE else {torch.float32}
    if not dtypes <= wide:
        raise BadInput(f"impl='triton' takes {_named(wide)} in {operation}, not {_named(dtypes)}; use .float().")


def _named(dtypes: set[torch.dtype]) -> str:
    return " or ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
