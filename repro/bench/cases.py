"""What `repro bench kernels` runs: every operation at one shape, what it must do at least, and the truth in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from repro import ops
from repro.bench.inference import lam_for_l0, synthetic
from repro.codes import SparseCodes
from repro.solvers import Lasso, Solution, objective, solve

Shape = tuple[int, int, int, int]  # n, d, m, k
CHECKED = 32  # rows that are compared with float64
SOLVED = 2048  # rows that solvers get
TOL = 1e-3  # relative gap to which they certify


@dataclass(frozen=True)
class Case:
    """One operation at one shape: how to run it, what it must do at least, and how far it is from the truth."""

    run: Callable[[str], Any]
    """impl -> result."""
    error: Callable[[Any], float]
    """Relative error of a result on the first rows."""
    bytes: int
    """Read and written once, gathered rows each time."""
    flops: int
    rows: int = 0
    """How many, where they are not the shape's n."""


def cases(shape: Shape, precision: str, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Case]:
    """Every operation on random tensors of this shape and dtype; of bfloat16 only encode_topk and decode are meant."""
    n, d, m, k = shape
    g = torch.Generator(device).manual_seed(0)
    given: Any = {"generator": g, "device": device}
    x, W = torch.randn(n, d, **given).to(dtype), (torch.randn(d, m, **given) / d**0.5).to(dtype)
    b = (torch.randn(m, **given) / 10).to(dtype)
    atoms = W.T.contiguous()
    threshold = float((x[:CHECKED] @ W + b).flatten().topk(CHECKED * k).values[-1])
    gates = threshold * (0.9 + 0.2 * torch.rand(m, **given))
    groups = [m // 8, m // 4, m - m // 8 - m // 4]
    group_ks = [max(1, k // 4), max(1, k // 4), max(1, k // 2)]
    codes = ops.encode_topk(x, W, b, k)
    y = torch.rand(n, **given) < 0.5
    z = codes.to_dense()
    grad = torch.randn(n, d, **given)
    v, D = codes.values.clone().requires_grad_(), atoms.clone().requires_grad_()

    pre = (x[:CHECKED].double() @ W.double() + b.double()).relu()
    dense, wide = z[:CHECKED].double(), atoms.double()
    u = objective.prox(dense + 0.1 * grad[:CHECKED].double() @ wide.T, 0.1 * 0.5)

    def encoded(codes: SparseCodes, expected: Tensor) -> float:
        """Of the values as they are sorted in their rows, and of the scores where they lie."""
        z = codes[:CHECKED].to_dense().double()
        scores = torch.where(z > 0, pre, 0)
        return max(relative(z.sort(1).values, expected.sort(1).values), relative(z, scores))

    def largest(part: Tensor, k: int) -> Tensor:
        best = part.topk(k, dim=1)
        return torch.zeros_like(part).scatter(1, best.indices, best.values)

    def above_error(found: SparseCodes, least: Tensor | float) -> float:
        near = (pre - least).abs() < 0.01 * threshold  # where rounding decides
        on = torch.where(near, found[:CHECKED].to_dense() > 0, pre > least)
        return encoded(found, torch.where(on, pre, 0))

    def batch_error(found: SparseCodes) -> float:
        values = found.values[found.values > 0]
        return above_error(found, float(values.min())) if len(values) == n * k else float("inf")

    def gradients(impl: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(ops.decode(v, codes.indices, D, impl=impl), (v, D), grad)

    def gradient_error(found: tuple[Tensor, ...]) -> float:
        to_v = (grad[:CHECKED].double() @ wide.T).gather(1, codes.indices[:CHECKED])
        some = codes.indices[:CHECKED].unique()
        to_D = codes.columns(some).double().T @ grad.double()
        return max(relative(found[0][:CHECKED], to_v), relative(found[1][some], to_D))

    def firing_error(found: ops.FiringStats) -> float:
        some = codes.indices[:CHECKED].unique()
        columns = codes.columns(some).double().clamp_min(0)
        exact = (columns > 0).sum(0), columns.sum(0), columns.square().sum(0), y.double() @ columns
        return max(relative(a[some].double(), e.double()) for a, e in zip(found, exact))

    size = x.element_size()
    small, scores, sparse = size * (n * d + m), size * n * m, (size + 8) * n * k
    product, gathered, weights = 2 * n * d * m, size * n * k * d, size * m * d
    given = {"precision": precision}
    by_group = torch.cat([largest(p, each) for p, each in zip(pre.split(groups, 1), group_ks)], 1)
    return {
        "prox_step": Case(
            lambda impl: ops.prox_step(z, grad, atoms, 0.5, 0.1, impl=impl, **given),
            lambda found: relative(found[:CHECKED], u),
            2 * scores + 4 * (n * d + m * d),
            product,
        ),
        "encode_topk": Case(
            lambda impl: ops.encode_topk(x, W, b, k, impl=impl, **given),
            lambda found: encoded(found, largest(pre, k)),
            small + weights + sparse,
            product,
        ),
        "encode_topk_groups": Case(
            lambda impl: ops.encode_topk(x, W, b, group_ks, groups, impl=impl, **given),
            lambda found: encoded(found, by_group),
            small + weights + sparse,
            product,
        ),
        "encode_above": Case(
            lambda impl: ops.encode_above(x, W, b, threshold, impl=impl, **given),
            lambda found: above_error(found, threshold),
            small + weights + sparse,
            product,
        ),
        "encode_gated": Case(  # thresholds of every latent, as JumpReLU; Gated's arithmetic
            lambda impl: ops.encode_gated(x, W, b, gates, torch.ones_like(b), torch.zeros_like(b), impl=impl, **given),
            lambda found: above_error(found, gates.double()),
            small + weights + sparse,
            product,
        ),
        "encode_batch_topk": Case(
            lambda impl: ops.encode_batch_topk(x, W, b, n * k, impl=impl, **given),
            batch_error,
            small + weights + sparse,
            product,
        ),
        "decode": Case(
            lambda impl: ops.decode(codes.values, codes.indices, atoms, impl=impl),
            lambda found: relative(found[:CHECKED], dense @ wide),
            sparse + gathered + size * n * d,
            2 * n * k * d,
        ),
        "decode_backward": Case(  # and forward
            gradients,
            gradient_error,
            2 * sparse + 3 * gathered + 4 * (2 * n * d + m * d),
            6 * n * k * d,
        ),
        "firing_stats": Case(lambda impl: ops.firing_stats(codes, y, impl=impl), firing_error, sparse + 32 * m, 0),
    }


def solver_cases(shape: Shape, device: str) -> dict[str, Case]:
    """The inner loop of `working_set` on a GPU, and whole certified solves by it and by FISTA of the same problem.

    Planted codes under correlated atoms (as in `repro bench inference`), at the lam where optima have k nonzeros; the
    error of a solve is the share of rows without a certificate, its floor one float32 product with the dictionary.
    """
    n, d, m, k = min(shape[0], SOLVED), *shape[1:]
    data = synthetic(d, m, n)
    data = replace(data, x=data.x.to(device), atoms=data.atoms.to(device))
    problem = Lasso(data.x, data.atoms, lam_for_l0(data, k))

    w = min(4 * k, m)
    W = (data.x @ data.atoms.T).topk(w, dim=1).indices
    A = data.atoms[W]
    G, q = A @ A.mT, (A @ data.x.unsqueeze(2)).squeeze(2)
    u, lam, energy = torch.zeros_like(q), float(problem.lam), data.x.square().sum(1)

    def descend(impl: str) -> Tensor:
        return ops.coordinate_descent(G, u, q, lam, energy=energy, target=TOL * energy, steps=8 * w, impl=impl)[0]

    def gap(found: Tensor) -> float:
        """By how much the gap of a checked row's restricted problem exceeds its target, over ||x||^2."""
        part = [t[:CHECKED].double() for t in (A, data.x, found)]
        gaps = [objective.certify(x[None], z[None], atoms, lam).gap / x.square().sum() for atoms, x, z in zip(*part)]
        return max(0.0, float(torch.cat(gaps).max()) - TOL)

    def unproven(found: Solution) -> float:
        return 1 - float(found.converged.double().mean())

    return {
        "coordinate_descent": Case(descend, gap, 4 * n * w * (w + 3), 0, n),
        "solve": Case(lambda solver: solve(problem, solver, tol=TOL), unproven, 4 * (n * d + m * d), 2 * n * d * m, n),
    }


def relative(found: Tensor, exact: Tensor) -> float:
    """||found - exact|| / ||exact||; NaN stays NaN."""
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))
