"""The operations against this device's floor: checked in float64 first, then timed beside their plain twins."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repro import objective, ops
from repro.bench.common import append, flag, machine, peak_memory, table, timed
from repro.codes import SparseCodes
from repro.errors import BadInput
from repro.kernels.precision import PRECISIONS, operand, torch_products

Shape = tuple[int, int, int, int]  # n, d, m, k

SHAPES: dict[str, tuple[Shape, ...]] = {
    "small": ((2048, 256, 2048, 16), (1024, 768, 16384, 32), (256, 2304, 16384, 64)),
    "large": ((8192, 256, 2048, 16), (8192, 768, 16384, 32), (8192, 2304, 16384, 64), (8192, 2304, 65536, 64)),
    "toy": ((64, 32, 512, 4),),
}
TOLERANCE = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 2e-3, "bf16": 1e-2}  # ||found - exact|| / ||exact||
CHECKED = 32  # rows that are compared with float64


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


@dataclass(frozen=True)
class Kernels:
    """Time of every operation, its floor from the copy and GEMM rates of the same run, and its plain twin's time."""

    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: the GPU where there is one")
    shapes: Literal["auto", "small", "large", "toy"] = flag("auto", "auto: large on a GPU, small on a CPU")
    precisions: tuple[str, ...] = flag((), "of products; all on a GPU, float32 on a CPU if not given")
    repeats: int = flag(5, "timings, of which the median counts")
    only: str = flag("", "a substring of the operations to run")
    out: Path | None = flag(None, "folder of kernels.csv; data/bench of the checkout if not given")

    def run(self) -> Path:
        """Append a row for each operation, shape and precision; RuntimeError names those that disagree with float64."""
        cuda = torch.cuda.is_available()
        device = ("cuda" if cuda else "cpu") if self.device == "auto" else self.device
        if device == "cuda" and not cuda:
            raise BadInput("There is no GPU here that torch can use: --device cpu.")
        shapes = SHAPES[("large" if device == "cuda" else "small") if self.shapes == "auto" else self.shapes]
        precisions = self.precisions or (PRECISIONS if device == "cuda" else ("float32",))
        if unknown := set(precisions) - set(PRECISIONS):
            raise BadInput(f"No precision {', '.join(unknown)}; there are {', '.join(PRECISIONS)}.")
        path, facts, wrong = table("kernels", self.out), machine("triton", "numba", device=device), []
        copy = copy_rate(device, self.repeats)
        for shape in shapes:
            for precision in precisions:
                gemm = gemm_rate(shape, precision, device, self.repeats)
                for name, case in cases(shape, precision, device).items():
                    if self.only not in name or (precision != precisions[0] and name not in PRODUCTS):
                        continue
                    floor = max(case.bytes / copy, case.flops / gemm)
                    rates = {"copy_gb_s": copy / 1e9, "gemm_tflops": gemm / 1e12}
                    eager = float("nan")
                    for impl in implementations(name, device):
                        row = self.measure(case, impl, device)
                        title = {"operation": name, "impl": impl, "precision": precision}
                        label = f"{name} {impl} {precision} {shape}"
                        if not row["error"] <= TOLERANCE[precision]:
                            wrong.append(label)
                            print(f"{label}: error {row['error']:.1e}, not timed", flush=True)
                            continue
                        if impl == "torch":
                            eager = row["ms"]
                        row |= {
                            "bytes": case.bytes,
                            "flops": case.flops,
                            "floor_ms": 1000 * floor,
                            "times_floor": row["ms"] / (1000 * floor),
                            "times_faster_than_eager": eager / row["ms"],
                        }
                        numbers = {
                            k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in (row | rates).items()
                        }
                        append(path, [title | dict(zip("ndmk", shape)) | numbers | facts])
                        print(
                            f"{label}: {row['ms']:.3f} ms, {row['times_floor']:.2f} x the floor, "
                            f"{row['times_faster_than_eager']:.2f} x as fast as plain torch",
                            flush=True,
                        )
        if wrong:
            raise RuntimeError(f"Disagree with float64 and were not timed: {'; '.join(wrong)}.")
        return path

    def measure(self, case: Case, impl: str, device: str) -> dict[str, Any]:
        """Error, and if that is small the median time and the peak memory above what was held before."""
        result = case.run(impl)  # also compiles
        error = case.error(result)
        del result
        if not error <= max(TOLERANCE.values()):
            return {"error": error}
        before = peak_memory(reset=True, device=device)
        case.run(impl)
        peak = max(peak_memory(device=device) - before, 0.0)
        return {"error": error, "ms": 1000 * median(lambda: case.run(impl), device, self.repeats), "peak_mib": peak}


PRODUCTS = ("prox_step", "encode_topk", "encode_above", "encode_topk_groups")


def implementations(name: str, device: str) -> list[str]:
    """The plain twin first, then what "auto" takes here if that is another."""
    fast = "triton" if device == "cuda" else "numba"
    kernel = name.split("_topk")[0].split("_above")[0].removesuffix("_backward")
    has = fast in ops.IMPLEMENTATIONS[kernel] and importlib.util.find_spec(fast) is not None
    return ["torch", fast] if has else ["torch"]


def median(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of a run after a warm one; a GPU gets many in a row, so that launching one hides behind another."""
    once = timed(run, device)[1]
    inner = 1 if device == "cpu" else max(1, min(100, int(0.02 / once)))

    def several() -> None:
        for _ in range(inner):
            run()

    return sorted(timed(several, device)[1] / inner for _ in range(repeats))[repeats // 2]


def copy_rate(device: str, repeats: int) -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    a = torch.zeros(2**28 if device == "cuda" else 2**25, device=device)
    b = torch.ones_like(a)
    return 2 * a.nbytes / median(lambda: b.copy_(a), device, repeats)


def gemm_rate(shape: Shape, precision: str, device: str, repeats: int) -> float:
    """Operations a second of torch's product [n, d] @ [d, m] in this precision."""
    n, d, m, _ = shape
    x, W, out = torch.randn(n, d, device=device), torch.randn(d, m, device=device), torch.empty(n, m, device=device)
    x, W = operand(x, precision), operand(W, precision)
    with torch_products(x.device, precision):
        return 2 * n * d * m / median(lambda: torch.mm(x, W, out=out), device, repeats)


def cases(shape: Shape, precision: str, device: str) -> dict[str, Case]:
    """Every operation on random tensors of this shape."""
    n, d, m, k = shape
    g = torch.Generator().manual_seed(0)
    x, W = torch.randn(n, d, generator=g).to(device), (torch.randn(d, m, generator=g) / d**0.5).to(device)
    b = (torch.randn(m, generator=g) / 10).to(device)
    atoms = W.T.contiguous()
    threshold = float((x[:CHECKED] @ W + b).flatten().topk(CHECKED * k).values[-1])
    groups = [m // 8, m // 4, m - m // 8 - m // 4]
    group_ks = [max(1, k // 4), max(1, k // 4), max(1, k // 2)]
    codes = ops.encode_topk(x, W, b, k)
    y = (torch.rand(n, generator=g) < 0.5).to(device)
    z = codes.to_dense()
    grad = torch.randn(n, d, generator=g).to(device)
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

    def above_error(found: SparseCodes) -> float:
        near = (pre - threshold).abs() < 0.01 * threshold  # where rounding decides
        on = torch.where(near, found[:CHECKED].to_dense() > 0, pre > threshold)
        return encoded(found, torch.where(on, pre, 0))

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

    small, scores, sparse = 4 * (n * d + m), 4 * n * m, 12 * n * k
    product, gathered = 2 * n * d * m, 4 * n * k * d
    given: Any = {"precision": precision}
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
            small + 4 * m * d + sparse,
            product,
        ),
        "encode_topk_groups": Case(
            lambda impl: ops.encode_topk(x, W, b, group_ks, groups, impl=impl, **given),
            lambda found: encoded(found, by_group),
            small + 4 * m * d + sparse,
            product,
        ),
        "encode_above": Case(
            lambda impl: ops.encode_above(x, W, b, threshold, impl=impl, **given),
            above_error,
            small + 4 * m * d + sparse,
            product,
        ),
        "decode": Case(
            lambda impl: ops.decode(codes.values, codes.indices, atoms, impl=impl),
            lambda found: relative(found[:CHECKED], dense @ wide),
            sparse + gathered + 4 * n * d,
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


def relative(found: Tensor, exact: Tensor) -> float:
    """||found - exact|| / ||exact||; NaN stays NaN."""
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))
