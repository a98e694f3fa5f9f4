"""Every way to sparse codes on one device: time, certificate, multiples of an encoder pass, and what "auto" should be.

`repro bench inference` compares with libraries on a CPU; this runs wherever the tensors are.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from repro import ops
from repro.base.errors import BadInput
from repro.base.machine import pick_device
from repro.bench.common import Table, flag, metered, milliseconds, sizes, timed
from repro.bench.inference import proved, synthetic
from repro.codes import SparseCodes
from repro.solvers import AUTO, Lasso, objective, pursuit, refit, solve

CERTIFYING = ("fista", "working_set")
"""Solvers that "auto" may take: they stop at a certified gap."""
LONG = 3.0  # seconds; a faster run is timed twice, because the first one may compile
SHARES = (0.5, 0.2, 0.07)  # optima of about 20, 64 and 160 nonzeros at d = 768 (160 near 0.05 at d = 2304)
MOST = 128  # nonzeros of a pursuit


@dataclass(frozen=True)
class Solvers:
    """ISTA, FISTA, working sets, pursuit and refitting of the same problems, at lam as shares of lambda_max."""

    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: the GPU where there is one")
    shapes: tuple[str, ...] = flag(("768x16384", "2304x16384", "2304x65536"), "synthetic problems, d x m")
    shares: tuple[float, ...] = flag(SHARES, "lam, in units of the median token's lambda_max")
    tokens: int = flag(256, "tokens of a problem")
    ista_steps: int = flag(200, "steps of ISTA, the published number")
    max_steps: int = flag(1000, "steps after which FISTA gives up")
    tol: float = flag(1e-3, "relative duality gap that the others certify")
    seed: int = flag(0, "seed of the problems")
    out: Path | None = flag(None, "folder of solvers.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row a problem and method, and last the choice for "auto", to solvers.csv; returns its path."""
        device = pick_device(self.device)
        csv = Table("solvers", self.out, "triton", "numba", device=device, shown=SHOWN)
        rows = []
        for shape in self.shapes:
            for row in self._problems(*sizes(shape), device=device):
                csv.add(row)
                rows.append(row)
        solver, reason = decide(rows)
        csv.add({"method": "auto", "solver": solver, "reason": reason})
        print(f'auto on {device}: {reason} Now AUTO["{device}"] is "{AUTO[device]}".', flush=True)
        return csv.path

    def _problems(self, d: int, m: int, device: str) -> Iterator[dict[str, Any]]:
        data = synthetic(d, m, self.tokens, self.seed, min(60, m))
        x, atoms = data.x.to(device), data.atoms.to(device)
        top = float(objective.lambda_max(x, atoms).median())
        W, b = atoms.T.contiguous(), torch.zeros(m, device=device)
        encoder = milliseconds(functools.partial(ops.encode_topk, x, W, b, min(64, m)), device) / self.tokens
        del W
        shared: dict[str, Any] = {}
        for share in self.shares:
            problem = Lasso(x, atoms, share * top, shared=shared)
            _ = problem.lipschitz  # once a dictionary, outside the clock
            support: list[SparseCodes] = []
            for method, how in self._methods(problem, support).items():
                head = {"d": d, "m": m, "lam_share": share, "lam": share * top, "method": method}
                try:
                    row = self._measure(problem, how, encoder, device, support)
                except (RuntimeError, BadInput) as error:  # one method's failure is a row, not the end
                    row = {"note": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
                yield head | {"tokens": self.tokens} | row

    def _methods(self, problem: Lasso, support: list[SparseCodes]) -> dict[str, Callable[[], Any]]:
        """name -> how; pursuit and refitting use the nonzeros that a certified solve left in `support`."""

        def nonzeros() -> SparseCodes:
            if not support:
                raise BadInput("No certified codes of this problem whose support could be used.")
            return support[-1]

        def omp() -> SparseCodes:
            k = int(nonzeros().l0.double().mean().round().clamp(1, MOST))
            return pursuit(problem.x, problem.atoms, k)

        return {
            f"ista {self.ista_steps} steps": lambda: solve(
                problem, "ista", max_steps=self.ista_steps, tol=None, proof=False
            ),
            "working_set": lambda: solve(problem, "working_set", tol=self.tol),
            "fista": lambda: solve(problem, "fista", max_steps=self.max_steps, tol=self.tol),
            "pursuit": omp,
            "refit": lambda: refit(problem.x, problem.atoms, nonzeros()),
        }

    def _measure(
        self, problem: Lasso, how: Callable[[], Any], encoder: float, device: str, support: list[SparseCodes]
    ) -> dict[str, Any]:
        """Time, memory and an independent certificate; `encoder` is ms a token of an encoder pass."""
        result, seconds, _, extra = metered(how, device)
        if seconds < LONG:
            seconds = min(seconds, timed(how, device)[1])
        codes = result if isinstance(result, SparseCodes) else result.codes
        converged = getattr(result, "converged", None)
        certified = "" if converged is None else float(converged.double().mean())
        if certified == 1:
            support.append(codes)
        each = 1000 * seconds / len(problem.x)
        return {
            "ms_per_token": each,
            "times_the_encoder": each / encoder,
            "encoder_ms_per_token": encoder,
            "certified": certified,
            **proved(problem.x, codes, problem.atoms, problem.lam),
            "steps": int(result.steps.max()) if converged is not None else "",
            "extra_mib": extra,
        }


SHOWN = ("d", "m", "lam_share", "method", "ms_per_token", "times_the_encoder", "certified", "l0", "note")


def decide(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """(solver, reason): which of the certifying solvers "auto" should take on the device of these rows.

    The one that certifies the most problems completely; of equals the one with the smaller geometric mean of its
    times, over the problems that all of them were timed on.
    """
    by: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {name: {} for name in CERTIFYING}
    for row in rows:
        if row["method"] in by and row.get("ms_per_token"):
            by[row["method"]][row["d"], row["m"], row["lam_share"]] = row
    by = {name: found for name, found in by.items() if found}
    if not by:
        return "", "No solver was measured."
    common = set.intersection(*(set(found) for found in by.values()))
    whole = {name: sum(float(row["certified"] or 0) == 1 for row in found.values()) for name, found in by.items()}
    mean = {
        name: math.exp(sum(math.log(float(found[key]["ms_per_token"])) for key in common) / max(1, len(common)))
        for name, found in by.items()
    }
    best = min(by, key=lambda name: (-whole[name], mean[name]))
    total = len({key for found in by.values() for key in found})
    reason = f"{best} certifies every token of {whole[best]} of {total} problems at {mean[best]:.3g} ms a token"
    others = [
        f"{name} {whole[name]} at {mean[name]:.3g} ms, {mean[name] / mean[best]:.2f} x the time"
        for name in by
        if name != best
    ]
    return best, f"{reason} (geometric mean); {'; '.join(others) or 'nothing else was measured'}."


def decided(path: Path, device: str) -> str | None:
    """The solver that the newest row of solvers.csv names for this device, as `machine` calls it; None without one."""
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("method") == "auto" and row.get("device") == device]
    return (rows[-1].get("solver") or None) if rows else None
