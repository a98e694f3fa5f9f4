"""The operations against this device's floor: checked in float64 first, then timed beside their plain twins."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from repro.base.errors import BadInput
from repro.bench.cases import Case, Shape, cases, solver_cases
from repro.bench.common import append, flag, machine, peak_memory, table, timed
from repro.kernels.dispatch import IMPLEMENTATIONS
from repro.kernels.precision import PRECISIONS, operand, torch_products

SHAPES: dict[str, tuple[Shape, ...]] = {
    "small": ((2048, 256, 2048, 16), (1024, 768, 16384, 32), (256, 2304, 16384, 64)),
    "large": ((8192, 256, 2048, 16), (8192, 768, 16384, 32), (8192, 2304, 16384, 64), (8192, 2304, 65536, 64)),
    "toy": ((64, 32, 512, 4),),
}
TOLERANCE = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 2e-3, "bf16": 1e-2}  # ||found - exact|| / ||exact||
SLOW = 0.5  # seconds above which a run is timed once


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
                first = precision == precisions[0]
                chosen = cases(shape, precision, device)
                if first and (device == "cuda" or self.shapes == "toy") and self.only in "coordinate_descent solve":
                    chosen |= solver_cases(shape, device)
                for name, case in chosen.items():
                    if self.only not in name or not (first or name in PRODUCTS):
                        continue
                    floor = max(case.bytes / copy, case.flops / gemm)
                    rates = {"copy_gb_s": copy / 1e9, "gemm_tflops": gemm / 1e12}
                    eager, baseline = float("nan"), "fista" if name == "solve" else "plain torch"
                    for impl in implementations(name, device):
                        row = self.measure(case, impl, device)
                        title = {"operation": name, "impl": impl, "precision": precision}
                        label = f"{name} {impl} {precision} {shape}"
                        if not row["error"] <= TOLERANCE[precision]:
                            wrong.append(label)
                            print(f"{label}: error {row['error']:.1e}, not timed", flush=True)
                            continue
                        if impl in ("torch", "fista"):
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
                        append(path, [title | dict(zip("ndmk", (case.rows or shape[0], *shape[1:]))) | numbers | facts])
                        print(
                            f"{label}: {row['ms']:.3f} ms, {row['times_floor']:.2f} x the floor, "
                            f"{row['times_faster_than_eager']:.2f} x as fast as {baseline}",
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
        seconds = timed(lambda: case.run(impl), device)[1]
        peak = max(peak_memory(device=device) - before, 0.0)
        if seconds < SLOW:
            seconds = median(lambda: case.run(impl), device, self.repeats)
        return {"error": error, "ms": 1000 * seconds, "peak_mib": peak}


PRODUCTS = (
    "prox_step",
    "encode_topk",
    "encode_above",
    "encode_topk_groups",
    "encode_gated",
    "encode_batch_topk",
)


def implementations(name: str, device: str) -> list[str]:
    """The plain twin first, then what "auto" takes here if that is another; of `solve` the solvers."""
    if name == "solve":
        both = device == "cuda" or importlib.util.find_spec("numba") is not None
        return ["fista", "working_set"] if both else ["fista"]
    fast = "triton" if device == "cuda" else "numba"
    kernel = "encode" if name.startswith("encode") else name.removesuffix("_backward")
    has = fast in IMPLEMENTATIONS[kernel] and importlib.util.find_spec(fast) is not None
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
