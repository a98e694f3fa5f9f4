"""How fast each way to a sparse code is, and what it proves: one machine, one run, the same problems for all."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.bench.common import append, flag, machine, peak_memory, table, timed
from repro.codes import SparseCodes
from repro.solvers import Lasso, objective, solve

ROWS = 256  # tokens that dense products get at once: fewer leave them waiting for the dictionary


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


def two_gemms(data: Data, rows: int = ROWS, repeats: int = 5) -> float:
    """Seconds a token of the two float32 products of one ISTA step, the floor of any dense method; best of a few."""
    x = data.x[:rows]
    z, r = torch.rand(len(x), len(data.atoms)), torch.empty_like(x)

    def products() -> None:
        torch.addmm(x, z, data.atoms, alpha=-1, out=r)
        z.addmm_(r, data.atoms.T, alpha=1e-9)

    products()
    return min(timed(products)[1] for _ in range(repeats)) / len(x)


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
    some, enough = min(n, 4 * few), min(n, ROWS)
    problem = Lasso(data.x, data.atoms, lam)
    part, batch = problem[:some], problem[:enough]
    L = problem.lipschitz  # measured outside: one decomposition serves every token and every lam
    x, atoms = data.x[:enough].numpy(), data.atoms.numpy()
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "numpy ISTA-200": (enough, lambda: torch.from_numpy(released_ista(x, atoms, lam, 200, L))),
        "ista 5 steps": (enough, lambda: solve(batch, "ista", max_steps=5, tol=None, proof=False)),
        "ista 30 steps": (enough, lambda: solve(batch, "ista", max_steps=30, tol=None, proof=False)),
        "fista 1e-3": (some, lambda: solve(part, "fista", max_steps=1000, tol=1e-3)),
    }
    fresh = Lasso(data.x[:1], data.atoms, lam)  # one preparation serves every token and every lam, like L above
    ways["working_set, preparing the dictionary"] = 1, functools.partial(solve, fresh, "working_set", tol=0.5)
    solve(problem[:1], "working_set", tol=0.5)
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


@dataclass(frozen=True)
class Inference:
    """Every method on synthetic problems, and on real activations where given, at lam of the same optimal L0."""

    shapes: tuple[str, ...] = flag(("256x2048", "576x8192", "768x16384", "2304x16384"), "synthetic problems, d x m")
    l0s: tuple[int, ...] = flag((20, 64, 160, 250), "mean L0 of the optimum; at most d / 2 + 32")
    tokens: int = flag(1000, "tokens for working_set; ISTA gets 256, FISTA 4 * few, one-by-one libraries `few`")
    few: int = flag(20, "tokens for the slow methods")
    only: str = flag("", "run only methods whose name matches this expression (numpy ISTA-200, the unit, always runs)")
    acts: Path | None = flag(None, "real activations: a file of `repro collect`, or any [n, d] .npy")
    sae: Path | None = flag(None, "the SAE trained on them, whose dictionary is used")
    stream: int = flag(0, "also stream so many tokens through working_set in blocks, and report the memory")
    out: Path | None = flag(None, "folder of inference.csv; data/bench if not given")
    seed: int = flag(0, "seed of the synthetic problems")

    def run(self) -> Path:
        """Time everything, prove every result, append the rows; returns the csv."""
        if (self.acts is None) != (self.sae is None):
            raise BadInput("Real activations need both --acts and --sae.")
        shapes = [tuple(int(part) for part in shape.lower().split("x")) for shape in self.shapes]
        facts, out = machine("numba", "scikit-learn", "celer", "skglm"), table("inference", self.out)
        problems = [functools.partial(synthetic, d, m, max(self.tokens, self.few), self.seed) for d, m in shapes]
        if self.acts is not None and self.sae is not None:
            problems.append(functools.partial(real, self.acts, self.sae, self.tokens))
        for make in problems:
            data = make()
            floor = two_gemms(data)
            for l0 in (target for target in self.l0s if target <= data.x.shape[1] / 2 + 32):
                lam = lam_for_l0(data, l0)
                unit = None
                goal = solve(Lasso(data.x[: self.few], data.atoms, lam), tol=1e-5).objective
                for name, (n, how) in methods(data, lam, goal, self.few).items():
                    if re.search(self.only, name) or name == "numpy ISTA-200":
                        row = measure(data, lam, l0, name, n, how, floor, unit)
                        unit = unit or row["ms_per_token"]
                        print({k: row[k] for k in SHOWN}, flush=True)
                        append(out, [row | facts])
        if self.stream:
            d, m = shapes[-1] if len(shapes) == 1 else (768, 16384)
            data = synthetic(d, m, self.stream, self.seed)
            lam = lam_for_l0(data, 64)
            how = functools.partial(solve, Lasso(data.x, data.atoms, lam), "working_set", tol=1e-3)
            row = measure(
                data, lam, 64, f"working_set 1e-3, {self.stream:,} tokens", self.stream, how, two_gemms(data), None
            )
            print({k: row[k] for k in SHOWN}, flush=True)
            append(out, [row | facts])
        return out


SHOWN = ("d", "m", "target_l0", "method", "ms_per_token", "relative_gap_max", "l0", "peak_mib", "times_faster")


def real(acts: Path, sae_path: Path, n: int, seed: int = 0) -> Data:
    """n activations drawn from a store, less the decoder bias, with a trained SAE's dictionary."""
    from repro.activations.language_models.presets import max_norm_ratio
    from repro.activations.store import EXCLUDE, open_store
    from repro.checkpoints import load_sae

    sae = load_sae(sae_path)
    store = open_store(acts)
    model = store.meta.get("model", {}).get("name", "")
    x = store.select(EXCLUDE, max_norm_ratio(model, None)).take(n, seed=seed).x
    return Data(f"{sae.source.lm_name or 'real'} {sae.name} {sae.source.sparsity:g}", sae.target(x), sae.W_dec.detach())


def measure(
    data: Data, lam: float, l0: float, name: str, n: int, how: Callable[[], Any], floor: float, unit: float | None
) -> dict[str, Any]:
    """One row: time, memory, and the certificate of what came out; `unit` is the ms a token of numpy ISTA-200."""
    solve(Lasso(data.x[:2], data.atoms, lam), tol=0.5)  # compiled before the clock starts
    before = peak_memory(reset=True)
    result, seconds = timed(how)
    memory = peak_memory()
    codes = result.codes if hasattr(result, "codes") else SparseCodes.from_dense(result)
    proof = objective.certify(data.x[:n], codes, data.atoms, lam)
    each = 1000 * seconds / n
    relative = proof.gap / proof.objective.clamp_min(1e-300)
    return {
        "data": data.name,
        "d": data.x.shape[1],
        "m": len(data.atoms),
        "lam": round(lam, 6),
        "target_l0": l0,
        "method": name,
        "tokens": n,
        "ms_per_token": round(each, 4),
        "objective": round(float(proof.objective.mean()), 4),
        "relative_gap_mean": float(f"{float(relative.mean()):.2e}"),
        "relative_gap_max": float(f"{float(relative.max()):.2e}"),
        "l0": round(float(codes.l0.double().mean()), 1),
        "peak_mib": round(memory),
        "extra_mib": round(memory - before),
        "times_faster": round((unit or each) / each, 2),
        "times_the_two_gemms": round(each / 1000 / floor, 2),
        "two_gemms_ms": round(1000 * floor, 4),
    }
