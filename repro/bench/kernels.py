"""The operations against this device's floor: checked in float64 first, then timed beside their plain twins."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from repro.base.errors import BadInput
from repro.base.machine import pick_device
from repro.bench.cases import Case, Shape, cases, solver_cases
from repro.bench.common import Table, flag, metered, milliseconds
from repro.kernels.dispatch import IMPLEMENTATIONS
from repro.kernels.precision import PRECISIONS, operand, torch_products

SHAPES: dict[str, tuple[Shape, ...]] = {
    "small": ((2048, 256, 2048, 16), (1024, 768, 16384, 32), (256, 2304, 16384, 64)),
    "large": ((8192, 256, 2048, 16), (8192, 768, 16384, 32), (8192, 2304, 16384, 64), (8192, 2304, 65536, 64)),
    "toy": ((64, 32, 512, 4),),
    "ours": ((4096, 768, 16384, 32), (4096, 2304, 16384, 64), (4096, 2304, 65536, 64)),
    "descent": ((2048, 768, 16384, 32),),
    "flash-sae": ((1024, 4096, 65536, 64),),
    "flex-sae": ((1024, 2304, 65536, 32), (1024, 2304, 65536, 64), (1024, 2304, 65536, 128)),
}
"""Named sets of (n, d, m, k). flash-sae and flex-sae published times at the last two; flex-sae's n is not stated."""
TOLERANCE = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 2e-3, "bf16": 1e-2}  # ||found - exact|| / ||exact||
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Kernels:
    """Time of every operation, its floor from the copy and GEMM rates of the same run, and its plain twin's time."""

    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: the GPU where there is one")
    shapes: tuple[str, ...] = flag(("auto",), f"of {', '.join(SHAPES)}; auto: large on a GPU, small on a CPU")
    precisions: tuple[str, ...] = flag((), "of products; all on a GPU, float32 on a CPU if not given")
    stored: tuple[str, ...] = flag(
        ("float32",), "dtypes of the tensors: bfloat16 adds encode_topk and decode of bfloat16 tensors, as others store"
    )
    repeats: int = flag(10, "timings, of which the median counts")
    only: str = flag("", "run only operations whose name matches this expression")
    out: Path | None = flag(None, "folder of kernels.csv; data/bench of the checkout if not given")

    def run(self) -> Path:
        """Append a row for each operation, shape and precision; RuntimeError names those that disagree with float64."""
        device = pick_device(self.device)
        names = [("large" if device == "cuda" else "small") if name == "auto" else name for name in self.shapes]
        precisions = self.precisions or (PRECISIONS if device == "cuda" else ("float32",))
        asked = {"shapes": (names, SHAPES), "precision": (precisions, PRECISIONS), "dtype": (self.stored, STORED)}
        for what, (values, known) in asked.items():
            if unknown := set(values) - set(known):
                raise BadInput(f"No {what} {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        csv = Table("kernels", self.out, "triton", "numba", device=device, shown=SHOWN)
        copy, wrong = copy_rate(device, self.repeats), []
        kinds = [("bfloat16", "bf16")] if "bfloat16" in self.stored else []  # first: also what float32 has to beat
        kinds += [("float32", precision) for precision in precisions] if "float32" in self.stored else []
        for shape in [shape for name in names for shape in SHAPES[name]]:
            plain: dict[tuple[str, str], float] = {}  # ms of plain torch by operation and precision
            for stored, precision in kinds:
                gemm = gemm_rate(shape[:3], precision, device, self.repeats, stored)
                for name, case in self.cases(shape, precision, device, stored, precisions[0]).items():
                    for impl in implementations(name, device):
                        head: dict[str, Any] = {"operation": name, "impl": impl, "precision": precision}
                        head |= dict(zip("ndmk", (case.rows or shape[0], *shape[1:]))) | {"stored": stored}
                        try:
                            row = self.measure(case, impl, device)
                        except BadInput as error:  # an implementation that does not take this dtype
                            csv.add(head | {"note": str(error)})
                            continue
                        if not row["error"] <= TOLERANCE[precision]:
                            wrong.append(f"{name} {impl} {precision} {shape} stored in {stored}, by {row['error']:.1e}")
                            print(f"Not timed: {wrong[-1]}", flush=True)
                            continue
                        if impl in ("torch", "fista"):
                            plain[name, precision] = min(row["ms"], plain.get((name, precision), float("inf")))
                        faster = plain.get((name, precision), float("nan")) / row["ms"]
                        row |= {"times_faster_than_eager": faster}
                        csv.add(head | row | rates(case, row["ms"], copy, gemm))
        if wrong:
            raise RuntimeError(f"Disagree with float64 and were not timed: {'; '.join(wrong)}.")
        return csv.path

    def cases(self, shape: Shape, precision: str, device: str, stored: str, first: str) -> dict[str, Case]:
        """What to run: products in every precision, the rest once, and of bfloat16 tensors encode_topk and decode."""
        chosen = cases(shape, precision, device, STORED[stored])
        if stored != "float32":
            chosen = {name: chosen[name] for name in ("encode_topk", "decode")}
        elif precision != first:
            chosen = {name: case for name, case in chosen.items() if name in PRODUCTS}
        elif (device == "cuda" or "toy" in self.shapes) and any(re.search(self.only, n) for n in WITH_ATOMS):
            chosen |= solver_cases(shape, device)
        return {name: case for name, case in chosen.items() if re.search(self.only, name)}

    def measure(self, case: Case, impl: str, device: str) -> dict[str, Any]:
        """Error, and if that is small the median time and the peak memory above what was held before."""
        result = case.run(impl)  # also compiles
        error = case.error(result)
        del result
        if not error <= max(TOLERANCE.values()):
            return {"error": error}
        extra = metered(lambda: case.run(impl), device).extra
        return {"error": error, "ms": milliseconds(lambda: case.run(impl), device, self.repeats), "peak_mib": extra}


def rates(case: Case, ms: float, copy: float, gemm: float) -> dict[str, float | str]:
    """The floor, shares of this machine's copy bandwidth and product rate, and the time of the bare product."""
    product, floor = 1000 * case.flops / gemm, 1000 * max(case.bytes / copy, case.flops / gemm)
    return {
        "share_of_copy_rate": case.bytes / (ms / 1000) / copy,
        "share_of_product_rate": product / ms if case.flops else "",
        "product_ms": product if case.flops else "",
        "bytes": case.bytes,
        "flops": case.flops,
        "floor_ms": floor,
        "times_floor": ms / floor,
        "copy_gb_s": copy / 1e9,
        "gemm_tflops": gemm / 1e12,
    }


SHOWN = (
    *("operation", "impl", "precision", "stored", "n", "d", "m", "k", "ms", "times_floor", "times_faster_than_eager"),
    "note",
)
PRODUCTS = ("prox_step", "encode_topk", "encode_above", "encode_topk_groups", "encode_gated", "encode_batch_topk")
WITH_ATOMS = ("coordinate_descent", "solve")


def implementations(name: str, device: str) -> list[str]:
    """The plain twin first, then what "auto" takes here if that is another; of `solve` the solvers."""
    if name == "solve":
        both = device == "cuda" or importlib.util.find_spec("numba") is not None
        return ["fista", "working_set"] if both else ["fista"]
    fast = "triton" if device == "cuda" else "numba"
    kernel = "encode" if name.startswith("encode") else name.removesuffix("_backward")
    has = fast in IMPLEMENTATIONS[kernel] and importlib.util.find_spec(fast) is not None
    return ["torch", fast] if has else ["torch"]


def copy_rate(device: str, repeats: int) -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    a = torch.zeros(2**28 if device == "cuda" else 2**25, device=device)
    b = torch.ones_like(a)
    return 2 * a.nbytes / milliseconds(lambda: b.copy_(a), device, repeats) * 1000


def gemm_rate(
    shape: tuple[int, int, int], precision: str, device: str, repeats: int = 10, stored: str = "float32"
) -> float:
    """Operations a second of torch's product [n, d] @ [d, m] in this precision.

    bf16 on a GPU is the product of bfloat16 matrices, whatever the operations are stored in: the faster of the two.
    """
    n, d, m = shape
    wide = stored == "float32" and (precision != "bf16" or device != "cuda")
    dtype = torch.float32 if wide else torch.bfloat16
    x, W = torch.randn(n, d, device=device).to(dtype), torch.randn(d, m, device=device).to(dtype)
    out = torch.empty(n, m, device=device, dtype=dtype)
    if wide:
        x, W = operand(x, precision), operand(W, precision)
    with torch_products(x.device, precision):
        return 2 * n * d * m / milliseconds(lambda: torch.mm(x, W, out=out), device, repeats) * 1000
