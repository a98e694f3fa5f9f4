"""How fast each way to a sparse code is, and what it proves: one machine, one run, the same problems for all."""

from __future__ import annotations

import csv
import datetime
import functools
import importlib.metadata
import importlib.util
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro import objective
from repro.codes import SparseCodes
from repro.config import repo_root
from repro.solvers.loop import solve
from repro.solvers.problem import Lasso

SHAPES = ((256, 2048), (576, 8192), (768, 16384), (2304, 16384))


@dataclass(frozen=True)
class Data:
    """Targets x [n, d] and atoms [m, d] with a name for the table."""

    name: str
    x: Tensor
    atoms: Tensor


def synthetic(d: int, m: int, n: int, seed: int = 0, planted: int = 60) -> Data:
    """Correlated unit atoms (spectrum i^-1/2) and x of norm sqrt(d): `planted` of them with codes near 1, and noise."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.randn(m, d, generator=g) * torch.arange(1, d + 1) ** -0.5
    atoms /= atoms.norm(dim=1, keepdim=True)
    x = torch.stack(
        [
            torch.randn(planted, generator=g).abs().add(0.5) @ atoms[torch.randperm(m, generator=g)[:planted]]
            for _ in range(n)
        ]
    )
    x = x / x.norm(dim=1, keepdim=True) * d**0.5 + 0.3 * torch.randn(n, d, generator=g)
    return Data("synthetic", x / x.norm(dim=1, keepdim=True) * d**0.5, atoms)


def lam_for_l0(data: Data, l0: float, tokens: int = 64, tol: float = 0.03) -> float:
    """A lam at which optima have about `l0` nonzeros on average, by bisection on the first tokens, warm-started."""
    problem = Lasso(data.x[:tokens], data.atoms, 0.0)
    high = float(objective.lambda_max(problem.x, problem.atoms).max())
    low, codes = 0.0, None
    for _ in range(40):
        lam = high / 2 if low == 0 else (low * high) ** 0.5
        solution = solve(problem.with_lam(lam), z0=codes, tol=1e-3)
        found = float(solution.codes.l0.double().mean())
        if abs(found - l0) <= tol * l0:
            break
        if found > l0:
            low = lam
        else:
            high, codes = lam, solution.codes
    return lam


def released_ista(x: np.ndarray, atoms: np.ndarray, lam: float, steps: int, L: float) -> np.ndarray:
    """The published update in plain dense numpy: z <- max(z - a ((z D - x) D^T + lam), 0), a = 1 / (L + 1e-6)."""
    z = np.zeros((len(x), len(atoms)), dtype=x.dtype)
    a = np.float32(1 / (L + 1e-6))
    for _ in range(steps):
        z = np.maximum(z - a * ((z @ atoms - x) @ atoms.T + np.float32(lam)), 0)
    return z


def two_gemms(data: Data, rows: int = 256, repeats: int = 5) -> float:
    """Seconds a token of the two float32 products of one ISTA step, the floor of any dense method; best of a few."""
    x = data.x[:rows]
    z, r = torch.rand(len(x), len(data.atoms)), torch.empty_like(x)

    def products() -> None:
        torch.addmm(x, z, data.atoms, alpha=-1, out=r)
        z.addmm_(r, data.atoms.T, alpha=1e-9)

    products()
    return min(timed(products)[1] for _ in range(repeats)) / len(x)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def peak_memory(reset: bool = False) -> float:
    """Largest resident memory of this process since the last reset, in MiB (Linux; NaN elsewhere)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return float("nan")


def _one_by_one(make: Callable[[float], Any], lam: float, data: Data, goal: Tensor, tol: float) -> Callable[[], Tensor]:
    """Fit a scikit-learn-like Lasso token by token: alpha = lam / d, and its tolerance scaled to tol * P."""
    A = np.asfortranarray(data.atoms.numpy().T)

    def run() -> Tensor:
        rows = []
        for x, best in zip(data.x, goal.tolist()):
            model = make(tol * best / float(x.square().sum()))
            rows.append(torch.from_numpy(np.asarray(model.fit(A, x.numpy()).coef_, dtype=np.float32)))
        return torch.stack(rows)

    return run


def methods(data: Data, lam: float, goal: Tensor, few: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Every way to compute the codes: name -> (tokens it gets, how). `goal` [n] are optimal objectives."""
    n, d = data.x.shape
    some = min(n, 10 * few)
    problem = Lasso(data.x, data.atoms, lam)
    part = problem[:some]
    L = problem.lipschitz  # measured outside: one decomposition serves every token and every lam
    x, atoms = data.x[:some].numpy(), data.atoms.numpy()
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "numpy ISTA-200": (some, lambda: torch.from_numpy(released_ista(x, atoms, lam, 200, L))),
        "ista 30 steps": (some, lambda: solve(part, "ista", max_steps=30, tol=None)),
        "ista 200 steps": (some, lambda: solve(part, "ista", max_steps=200, tol=None)),
        "fista 1e-3": (some, lambda: solve(part, "fista", tol=1e-3)),
    }
    for tol in (1e-2, 1e-3, 1e-4):
        name = f"working_set {tol:.0e}".replace("e-0", "e-")
        ways[name] = n, functools.partial(solve, problem, "working_set", tol=tol)
    rows = Data(data.name, data.x[:few], data.atoms)
    from sklearn.linear_model import Lasso as Sklearn

    def sklearn(tol: float) -> Any:
        return Sklearn(lam / d, fit_intercept=False, positive=True, copy_X=False, tol=tol, max_iter=100_000)

    ways["scikit-learn 1e-3"] = (few, _one_by_one(sklearn, lam, rows, goal, 1e-3))
    if importlib.util.find_spec("celer"):
        from celer import Lasso as Celer

        def celer(tol: float) -> Any:
            return Celer(lam / d, fit_intercept=False, positive=True, tol=tol)

        ways["celer 1e-3"] = (few, _one_by_one(celer, lam, rows, goal, 1e-3))
    if importlib.util.find_spec("skglm"):
        from skglm import Lasso as Skglm

        def skglm(tol: float) -> Any:
            return Skglm(lam / d, fit_intercept=False, positive=True, tol=1e-3 * lam / d)  # of the KKT violation

        ways["skglm kkt 1e-3"] = (few, _one_by_one(skglm, lam, rows, goal, 1e-3))
    return ways


def machine() -> dict[str, str]:
    """Device, threads, versions, commit and date: what a timing means nothing without."""
    cpu = next((s.split(":")[1].strip() for s in _cpuinfo() if s.startswith("model name")), platform.machine())
    versions = {}
    for package in ("torch", "numpy", "numba", "scikit-learn", "celer", "skglm"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=repo_root(), capture_output=True, text=True)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    device = f"{cpu}, {torch.get_num_threads()} threads"
    return {"device": device, **versions, "commit": git.stdout.strip(), "date": now}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def bench_inference(
    shapes: Sequence[tuple[int, int]] = SHAPES,
    l0s: Sequence[int] = (20, 64, 160, 250),
    tokens: int = 1000,
    few: int = 20,
    only: str = "",
    data: Iterable[Data] = (),
    out: Path | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time every method on synthetic problems of these shapes (and on `data`), at lam of these optimal L0.

    tokens: for working_set; dense methods get 10 * few, one-token-at-a-time libraries get `few`. only: a substring of
    the methods to run (the two-product floor and numpy ISTA-200 always run, as the units). out: a csv to append to;
    data/bench/inference.csv of the checkout if not given. L0 targets above d / 2 + 32 are skipped. Returns the rows.
    """
    out = out or repo_root() / "data" / "bench" / "inference.csv"
    facts, rows = machine(), []
    problems = [synthetic(d, m, tokens, seed) for d, m in shapes] + list(data)
    for one in problems:
        floor = two_gemms(one)
        for l0 in (target for target in l0s if target <= one.x.shape[1] / 2 + 32):
            lam = lam_for_l0(one, l0)
            goal = solve(Lasso(one.x[:few], one.atoms, lam), tol=1e-5).objective
            unit = None
            for name, (n, run) in methods(one, lam, goal, few).items():
                if only not in name and name != "numpy ISTA-200":
                    continue
                solve(Lasso(one.x[:2], one.atoms, lam), tol=0.5)  # compiled before the clock starts
                peak_memory(reset=True)
                result, seconds = timed(run)
                memory = peak_memory()
                codes = result.codes if hasattr(result, "codes") else SparseCodes.from_dense(result)
                proof = objective.certify(one.x[:n], codes, one.atoms, lam)
                each = seconds / n
                unit = each if unit is None else unit
                row = {
                    "data": one.name,
                    "d": one.x.shape[1],
                    "m": len(one.atoms),
                    "lam": round(lam, 6),
                    "target_l0": l0,
                    "method": name,
                    "tokens": n,
                    "ms_per_token": round(1000 * each, 4),
                    "objective": round(float(proof.objective.mean()), 4),
                    "relative_gap_mean": float(f"{float((proof.gap / proof.objective).mean()):.2e}"),
                    "relative_gap_max": float(f"{float((proof.gap / proof.objective).max()):.2e}"),
                    "l0": round(float(codes.l0.double().mean()), 1),
                    "peak_mib": round(memory, 0),
                    "times_faster_than_numpy_ista": round(unit / each, 2),
                    "times_the_two_gemms": round(each / floor, 2),
                    "two_gemms_ms": round(1000 * floor, 4),
                }
                rows.append({**row, **facts})
                print({k: row[k] for k in list(row)[:15]}, flush=True)
                append(out, rows[-1:])
    return rows


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a csv whose columns never change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    import tyro

    tyro.cli(bench_inference)
