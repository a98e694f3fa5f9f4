"""How fast codes of at most k nonzeros are, as multiples of the encoder's product in the same run, and how good.

On a CPU, beside them the optimum of as many nonzeros on average, scikit-learn's OMP and the whole of `repro price`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from repro.base.machine import pick_device
from repro.bench.common import Table, flag, metered, timed
from repro.bench.evaluate import synthetic_sae, write_activations
from repro.bench.inference import Data, lam_for_l0, synthetic
from repro.codes import SparseCodes
from repro.solvers import Lasso, pursuit, solve


@dataclass(frozen=True)
class Pursuit:
    """Every pursuit on synthetic problems, repeats interleaved with `x @ W_enc`, beside scikit-learn's OMP."""

    device: Literal["auto", "cpu", "cuda"] = flag("cpu", "auto: the GPU where there is one")
    shapes: tuple[str, ...] = flag(("576x2048x33", "768x16384x32", "2304x16384x64", "2304x65536x64"), "d x m x k")
    tokens: int = flag(256, "tokens of a problem")
    few: int = flag(4, "tokens for scikit-learn")
    price_tokens: int = flag(500, "tokens for the whole of `repro price`, without a language model; 0 leaves it out")
    repeats: int = flag(3, "interleaved repeats; the median ratio counts")
    out: Path | None = flag(None, "folder of pursuit.csv; data/bench if not given")
    seed: int = flag(0, "seed of the synthetic problems")

    def run(self) -> Path:
        """Time everything, append the rows; returns the csv."""
        device = pick_device(self.device)
        csv = Table("pursuit", self.out, "numba", "triton", "scikit-learn", device=device, shown=SHOWN)
        self._rows(synthetic(8, 64, self.few), 2, device)  # compiled before the clock starts
        for shape in self.shapes:
            d, m, k = (int(size) for size in shape.lower().split("x"))
            data = synthetic(d, m, self.tokens, self.seed, min(60, m))
            for row in self._rows(data, k, device):
                csv.add({"d": d, "m": m, "k": k} | row)
            if self.price_tokens and device == "cpu":
                csv.add({"d": d, "m": m, "k": k} | self._price(d, m, k))
        return csv.path

    def _rows(self, data: Data, k: int, device: str) -> list[dict[str, Any]]:
        """One row a method; residuals as shares of that of the encoder's k latents with least squares."""
        data = Data(data.name, data.x.to(device), data.atoms.to(device))
        shared: dict[str, Any] = {"tokens": len(data.atoms)}  # enough for the Gram matrix to pay
        W = data.atoms.T.contiguous()
        values, indices = (data.x @ W).relu().topk(k, dim=1)
        z0 = SparseCodes.packed(values, indices, len(data.atoms))
        gram = metered(
            lambda: pursuit(data.x[:1], data.atoms, k, "ompr", rounds=0, shared=shared), device
        )  # G is built
        ways = self._ways(data, k, z0, shared)
        units: list[float] = []
        times: dict[str, list[float]] = {name: [] for name in ways}
        found: dict[str, tuple[SparseCodes, float]] = {}
        for way in ways.values() if device == "cuda" else ():
            way[1]()  # kernels are compiled for each width of a support
        for _ in range(self.repeats):
            units.append(timed(lambda: data.x @ W, device)[1] / len(data.x))
            for name, (n, how) in ways.items():
                codes, seconds, _, extra = metered(how, device)
                times[name].append(seconds / n)
                found[name] = codes, max(extra, found[name][1] if name in found else 0.0)
        prepared = {"method": "Gram matrix", "tokens": 1, "extra_mib": gram.extra}
        prepared |= {"ms_per_token": 1000 * gram.seconds, "times_the_encoder": gram.seconds / statistics.median(units)}
        start = left(data, found["least squares on the encoder's"][0])
        unit = {"ms_per_token": 1000 * statistics.median(units), "times_the_encoder": 1.0}
        rows = [{"method": "x @ W_enc", "tokens": len(data.x), "l0": ""} | unit]
        rows += [prepared] if "pursuit_gram" in shared else []
        for name, (codes, extra) in found.items():
            n = len(codes)
            rows.append({
                "method": name,
                "tokens": n,
                "ms_per_token": 1000 * statistics.median(times[name]),
                "times_the_encoder": statistics.median(t / unit for t, unit in zip(times[name], units)),
                "encoder_ms_per_token": 1000 * statistics.median(units),
                "residual": float(left(data, codes).sum() / start[:n].sum()),
                "l0": float(codes.l0.double().mean()),
                "extra_mib": extra,
                "gram": "pursuit_gram" in shared,
            })  # fmt: skip
        return rows

    def _price(self, d: int, m: int, k: int) -> dict[str, Any]:
        """All kinds of codes, the frontier and the latents of a SAE with random weights, as one row."""
        from repro.base.config import MetricsConfig
        from repro.evaluate import open_data
        from repro.price import PriceOptions, price

        sae = synthetic_sae(d, m, k, self.seed)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "acts.npy"
            write_activations(file, sae, self.price_tokens, self.seed)
            data = open_data(file, MetricsConfig(max_tokens=self.price_tokens, exclude=()), stream=True)
            x = data.tokens.x[: self.tokens]
            unit = statistics.median(timed(lambda: x @ sae.W_enc)[1] / len(x) for _ in range(self.repeats + 1))
            found, seconds, _, extra = metered(lambda: price(sae, data, folder, PriceOptions(seed=self.seed)))
        each = seconds / self.price_tokens
        return {
            "method": "repro price",
            "tokens": self.price_tokens,
            "ms_per_token": 1000 * each,
            "times_the_encoder": each / unit,
            "encoder_ms_per_token": 1000 * unit,
            "l0": found["modes"]["encoder"]["L0"],
            "extra_mib": extra,
        }

    def _ways(
        self, data: Data, k: int, z0: SparseCodes, shared: dict[str, Any]
    ) -> dict[str, tuple[int, Callable[[], SparseCodes]]]:
        """name -> (tokens, how)."""
        gram, cpu = shared.get("pursuit_gram"), data.x.device.type == "cpu"

        def by(method: str, n: int = len(data.x), warm: bool = False, rounds: int | None = None) -> Any:
            start = z0[:n] if warm else None
            return n, lambda: pursuit(data.x[:n], data.atoms, k, method, start, rounds, shared=shared)

        ways = {
            "least squares on the encoder's": by("refit", warm=True),
            "omp": by("omp"),
            "ompr, warm, 1 round": by("ompr", warm=True, rounds=1),
            "ompr, warm": by("ompr", warm=True),
            "ompr, cold": by("ompr"),
        }
        if cpu:
            optimum = Lasso(data.x, data.atoms, lam_for_l0(data, k))
            solve(optimum[:1], "working_set", tol=0.5)  # the dictionary is prepared once, as the Gram matrix is
            ways["optimum, gap 1e-3"] = len(data.x), lambda: solve(optimum, "working_set", tol=1e-3).codes
        if gram is not None:
            few = min(self.few, len(data.x))
            ways["scikit-learn orthogonal_mp_gram, signed"] = few, lambda: scikit_learn(data, k, gram, few)
        return ways


SHOWN = ("d", "m", "k", "method", "tokens", "ms_per_token", "times_the_encoder", "residual", "extra_mib")


def left(data: Data, codes: SparseCodes) -> torch.Tensor:
    """||x - z @ atoms||^2 of the first rows, as many as there are codes."""
    return (data.x[: len(codes)] - codes.decode(data.atoms)).double().square().sum(1)


def scikit_learn(data: Data, k: int, gram: torch.Tensor, n: int) -> SparseCodes:
    """scikit-learn's Batch-OMP of n tokens on the same Gram matrix (it copies it once a call)."""
    from sklearn.linear_model import orthogonal_mp_gram

    products = (data.atoms @ data.x[:n].T).numpy()
    codes = orthogonal_mp_gram(gram.numpy(), products, n_nonzero_coefs=k, copy_Xy=False)
    return SparseCodes.from_dense(torch.from_numpy(codes.T.copy()).float())
