"""How fast each way to a sparse code is, and what it proves: one machine, one run, the same problems for all."""

from __future__ import annotations

import functools
import importlib
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
from repro.bench.common import Table, flag, metered, milliseconds, sizes
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
    draws = (
        torch.randn(planted, generator=g).abs().add(0.5) @ atoms[torch.randperm(m, generator=g)[:planted]]
        for _ in range(n)
    )
    x = torch.stack(list(draws))
    x = x / x.norm(dim=1, keepdim=True) * d**0.5 + 0.3 * torch.randn(n, d, generator=g)
    return Data("synthetic", x / x.norm(dim=1, keepdim=True) * d**0.5, atoms)


def lam_for_l0(data: Data, l0: float) -> float:
    """A lam at which optima have about `l0` nonzeros on average (3 %), by bisection on 64 tokens, warm-started."""
    problem = Lasso(data.x[:64], data.atoms, 0.0)
    high = float(objective.lambda_max(problem.x, problem.atoms).max())
    low, codes = 0.0, None
    for _ in range(40):
        lam = high / 2 if low == 0 else (low * high) ** 0.5
        solution = solve(problem.with_lam(lam), z0=codes, tol=1e-3)
        mean = float(solution.codes.l0.double().mean())
        if abs(mean - l0) <= 0.03 * l0:
            break
        if mean > l0:
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


def two_gemms(data: Data) -> float:
    """Milliseconds a token of the two float32 products of one ISTA step, the floor of any dense method."""
    x = data.x[:ROWS]
    z, r = torch.rand(len(x), len(data.atoms)), torch.empty_like(x)

    def products() -> None:
        torch.addmm(x, z, data.atoms, alpha=-1, out=r)
        z.addmm_(r, data.atoms.T, alpha=1e-9)

    return milliseconds(products) / len(x)


def _one_by_one(module: str, options: dict[str, Any], lam: float, data: Data, goal: Tensor) -> Callable[[], Tensor]:
    """Fit a library's Lasso token by token: alpha = lam / d, its tolerance a gap of 1e-3 unless `options` has one."""
    A, lasso = np.asfortranarray(data.atoms.numpy().T), importlib.import_module(module).Lasso

    def run() -> Tensor:
        rows = []
        for x, best in zip(data.x, goal.tolist()):
            tol = {"tol": 1e-3 * best / float(x.square().sum())}
            model = lasso(lam / len(x), fit_intercept=False, positive=True, **(tol | options))
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
    libraries: dict[str, tuple[str, dict[str, Any]]] = {
        "scikit-learn 1e-3": ("sklearn.linear_model", {"copy_X": False, "max_iter": 100_000}),
        "celer 1e-3": ("celer", {}),
        "skglm kkt 1e-3": ("skglm", {"tol": 1e-3 * lam / d}),  # of the KKT violation
    }
    for name, (module, options) in libraries.items():
        if importlib.util.find_spec(module.split(".")[0]):
            ways[name] = few, _one_by_one(module, options, lam, rows, goal)
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
        shapes = [sizes(shape) for shape in self.shapes]
        csv = Table("inference", self.out, "numba", "scikit-learn", "celer", "skglm", shown=SHOWN)
        problems = [functools.partial(synthetic, d, m, max(self.tokens, self.few), self.seed) for d, m in shapes]
        if self.acts is not None and self.sae is not None:
            problems.append(functools.partial(real, self.acts, self.sae, self.tokens))
        for make in problems:
            data = make()
            floor = two_gemms(data)
            for l0 in (target for target in self.l0s if target <= data.x.shape[1] / 2 + 32):
                lam = lam_for_l0(data, l0)
                unit = 0.0
                goal = solve(Lasso(data.x[: self.few], data.atoms, lam), tol=1e-5).objective
                for name, (n, how) in methods(data, lam, goal, self.few).items():
                    if re.search(self.only, name) or name == "numpy ISTA-200":
                        row = measure(data, lam, name, n, how, floor, unit)
                        unit = unit or row["ms_per_token"]
                        csv.add(row | {"target_l0": l0})
        if self.stream:
            d, m = shapes[-1] if len(shapes) == 1 else (768, 16384)
            data = synthetic(d, m, self.stream, self.seed)
            lam = lam_for_l0(data, 64)
            how = functools.partial(solve, Lasso(data.x, data.atoms, lam), "working_set", tol=1e-3)
            name = f"working_set 1e-3, {self.stream:,} tokens"
            csv.add(measure(data, lam, name, self.stream, how, two_gemms(data)) | {"target_l0": 64})
        return csv.path


SHOWN = ("d", "m", "target_l0", "method", "ms_per_token", "relative_gap_max", "l0", "peak_mib", "times_faster")


def real(acts: Path, sae_path: Path, n: int) -> Data:
    """n activations drawn from a store, less the decoder bias, with a trained SAE's dictionary."""
    from repro.activations.language_models.presets import max_norm_ratio
    from repro.activations.store import EXCLUDE, open_store
    from repro.checkpoints import load_sae

    sae = load_sae(sae_path)
    store = open_store(acts)
    model = store.meta.get("model", {}).get("name", "")
    x = store.select(EXCLUDE, max_norm_ratio(model, None)).take(n, seed=0).x
    return Data(f"{sae.source.lm_name or 'real'} {sae.name} {sae.source.sparsity:g}", sae.target(x), sae.W_dec.detach())


def proved(x: Tensor, codes: SparseCodes, atoms: Tensor, lam: Any) -> dict[str, float]:
    """Objective, relative gaps and L0 of codes of x [n, d] by a certificate that no solver had a part in."""
    proof = objective.certify(x, codes, atoms, lam)
    relative = proof.gap / proof.objective.clamp_min(1e-300)
    return {
        "objective": float(proof.objective.mean()),
        "relative_gap_mean": float(relative.mean()),
        "relative_gap_max": float(relative.max()),
        "l0": float(codes.l0.double().mean()),
    }


def measure(
    data: Data, lam: float, name: str, n: int, how: Callable[[], Any], floor: float, unit: float = 0.0
) -> dict[str, Any]:
    """One row: time, memory, and the certificate of what came out; `unit` is the ms a token of numpy ISTA-200."""
    solve(Lasso(data.x[:2], data.atoms, lam), tol=0.5)  # compiled before the clock starts
    result, seconds, peak, extra = metered(how)
    codes = result.codes if hasattr(result, "codes") else SparseCodes.from_dense(result)
    each = 1000 * seconds / n
    return {
        "data": data.name,
        "d": data.x.shape[1],
        "m": len(data.atoms),
        "lam": lam,
        "method": name,
        "tokens": n,
        "ms_per_token": each,
        **proved(data.x[:n], codes, data.atoms, lam),
        "peak_mib": peak,
        "extra_mib": extra,
        "times_faster": (unit or each) / each,
        "times_the_two_gemms": each / floor,
        "two_gemms_ms": floor,
    }
