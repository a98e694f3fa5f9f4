"""Memory that inference takes beyond its inputs and what it returns, for every kind of codes, each in a new process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.base.config import MetricsConfig
from repro.base.errors import BadInput, nearest
from repro.bench.common import Table, flag, metered
from repro.bench.evaluate import synthetic_sae, write_activations
from repro.bench.inference import Data, lam_for_l0
from repro.inference import infer, infer_to
from repro.sae import SAE
from repro.solvers import pursuit, refit

SAMPLE = 64  # tokens on which lambda is searched, before memory is measured
FOLDER = "non to a folder"
WAYS: dict[str, dict[str, Any]] = {
    "amortized": {"gap": False},
    "amortized with its gap": {},
    "semi": {"gap": False},
    "non": {},
    FOLDER: {},
    "amortized as released": {"gap": False},
    "semi as released": {"gap": False},
    "non as released": {"gap": False},
    "refit": {},
    "omp": {},
    "ompr": {},
}
"""What is measured, and options of `infer` where it computes it."""


@dataclass(frozen=True)
class Memory:
    """Codes of activations made of a synthetic SAE's own atoms, at a lambda found on 64 of them.

    The activations are inputs; from a folder's run they stay on disk and so do its codes. The Gram matrix of `omp` and
    `ompr` is what they take a dictionary, once: 4 m^2 bytes up to a GiB.
    """

    tokens: int = flag(4096, "tokens of a way")
    d: int = flag(768, "width of the activations")
    m: int = flag(16_384, "latents")
    k: int = flag(32, "mean L0 of the encoder, and nonzeros of a pursuit")
    ways: tuple[str, ...] = flag(tuple(WAYS), "kinds of codes")
    threads: int = flag(2, "threads")
    seed: int = flag(0, "seed of weights and activations")
    out: Path | None = flag(None, "folder of memory.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row a way to memory.csv; returns its path."""
        for way in self.ways:
            if way not in WAYS:
                raise BadInput(f"No way '{way}'{nearest(way, WAYS)}; there are {', '.join(WAYS)}.")
        torch.set_num_threads(self.threads)
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))  # of new processes: what is freed goes back at once
        csv = Table("memory", self.out, "numba")
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for way in self.ways:
                csv.add(pool.apply(self.row, (way,)))
        return csv.path

    @torch.no_grad()
    def row(self, way: str) -> dict[str, Any]:
        """Measure one way in this process."""
        from repro.evaluate import open_data

        torch.set_num_threads(self.threads)
        sae = synthetic_sae(self.d, self.m, self.k, self.seed)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "acts.npy"
            write_activations(file, sae, self.tokens, self.seed)
            stored = open_data(file, MetricsConfig(max_tokens=self.tokens, exclude=()), stream=True).tokens.x
            x = stored if way == FOLDER else stored[:]
            lam = lam_for_l0(Data("", sae.target(stored[:SAMPLE]), sae.W_dec.detach()), self.k)
            how = self._how(way, sae, x, lam, Path(folder))
            gc.collect()
            result, _, _, extra = metered(how)
            codes = getattr(result, "codes", result)
            l0 = codes[: min(self.tokens, 4096)].l0.double().mean()
        returned = 0 if way == FOLDER else sum(t.nbytes for t in _tensors(result)) / 2**20
        return {
            "way": way,
            "tokens": self.tokens,
            "d": self.d,
            "m": self.m,
            "k": self.k,
            "l0": float(l0),
            "returned_mib": round(returned, 1),
            "beyond_mib": round(extra - returned, 1),
            "dense_codes_mib": self.tokens * self.m * 4 / 2**20,
        }

    def _how(self, way: str, sae: SAE, x: Any, lam: float, folder: Path) -> Callable[[], Any]:
        """The call to measure; what it needs beside activations is an input and made here."""
        mode, protocol, atoms = way.split()[0], "as_released" if "released" in way else "corrected", sae.W_dec.detach()
        if way == FOLDER:
            return lambda: infer_to(folder / "codes", sae, x, mode, lam=lam)
        if way in ("refit", "omp", "ompr"):
            target, start = sae.target(x), sae.encode_sparse(x)
            if way == "refit":
                return lambda: refit(target, atoms, start)
            return lambda: pursuit(target, atoms, self.k, way, start if way == "ompr" else None)
        return lambda: infer(sae, x, mode, protocol, lam=lam, **WAYS[way])


def _tensors(result: Any) -> list[Tensor]:
    """What a call returned, as tensors."""
    codes = getattr(result, "codes", result)
    names = ("x_hat", "gap_lower", "gap_upper", "objective")
    return [codes.values, codes.indices, *(t for n in names if (t := getattr(result, n, None)) is not None)]
