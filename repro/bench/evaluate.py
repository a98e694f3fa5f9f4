"""What an evaluation takes: tokens a second and memory beyond the weights, for every mode of a synthetic SAE."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro.base.config import MetricsConfig
from repro.bench.common import Table, flag, metered_items, peak_memory
from repro.sae import SAE

PLANTED = 60  # atoms that make up an activation
SEQUENCE = 125  # tokens of a sequence


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a BatchTopK SAE with random weights on activations made of its own atoms, read from a file.

    The file and the codes of more than 32 MiB lie where TMPDIR says: 4 d and 8 L0 bytes a token.
    """

    tokens: int = flag(500, "tokens to evaluate")
    d: int = flag(768, "width of the activations")
    m: int = flag(16_384, "latents")
    k: int = flag(32, "mean L0 of the encoder")
    modes: tuple[str, ...] = flag(("amortized", "semi", "non"), "modes and controls")
    protocols: tuple[str, ...] = flag(("corrected",), "as_released takes 200 ISTA steps a token: 1,000 encoder passes")
    gap: bool = flag(True, "bracket the encoder's gap, for which every token is solved")
    refit: bool = flag(True, "NMSE_refit too, least squares on the support of every token")
    block: int | None = flag(None, "tokens in memory at a time; chosen from m if not given")
    device: str = flag("cpu", "cpu or cuda")
    seed: int = flag(0, "seed of weights and activations")
    out: Path | None = flag(None, "folder of evaluate.csv; data/bench if not given")

    def run(self) -> Path:
        """Append a row a mode, and one for all of them, to evaluate.csv; returns its path."""
        from repro.evaluate import EvalOptions, open_data
        from repro.evaluate.run import evaluate_sae

        torch.manual_seed(self.seed)
        sae = synthetic_sae(self.d, self.m, self.k, self.seed).to(self.device)
        csv = Table("evaluate", self.out, "numba", "scikit-learn", device=self.device)
        total = highest = 0.0
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "acts.npy"
            write_activations(file, sae, self.tokens, self.seed)
            data = open_data(file, MetricsConfig(max_tokens=self.tokens, exclude=()), stream=True)
            before = peak_memory(reset=True, device=self.device)  # the weights, torch and its libraries
            same = {name: getattr(self, name) for name in ("modes", "protocols", "gap", "refit", "block")}
            rows = evaluate_sae(sae, data, EvalOptions(**same))
            for row, seconds, peak, _ in metered_items(rows, self.device):
                total, highest = total + seconds, max(highest, peak - before)
                csv.add(self._row(row, seconds, peak - before))
        csv.add(self._row({"protocol": "all", "mode": "all", "n_tokens": self.tokens}, total, highest))
        return csv.path

    def _row(self, row: dict[str, Any], seconds: float, beyond: float) -> dict[str, Any]:
        return {
            "tokens": row["n_tokens"],
            "d": self.d,
            "m": self.m,
            "protocol": row["protocol"],
            "mode": row["mode"],
            "seconds": seconds,
            "tokens_per_second": row["n_tokens"] / seconds,
            "peak_mib_beyond_weights": beyond,
            "dense_codes_mib": row["n_tokens"] * self.m * 4 / 2**20,
            "l0": row.get("L0", ""),
            "nmse": row.get("NMSE", ""),
            "block": self.block or "",
        }


def synthetic_sae(d: int, m: int, k: int, seed: int) -> SAE:
    """BatchTopK with unit atoms (spectrum i^-1/4), the encoder their transpose times a gain, mean L0 = k."""
    from repro.sae import BatchTopK

    g = torch.Generator().manual_seed(seed)
    sae = BatchTopK(BatchTopK.Config(d, m, k=k)).requires_grad_(False)
    atoms = torch.randn(m, d, generator=g) * torch.arange(1, d + 1) ** -0.25
    sae.W_dec.copy_(atoms / atoms.norm(dim=1, keepdim=True))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.copy_(torch.randn(d, generator=g) * 0.1)
    x = activations(sae, 256, g)
    sae.threshold.copy_(sae.pre(x).flatten().topk(256 * k + 1).values[-1])
    target, raw = sae.target(x), sae.encode_sparse(x).decode(sae.W_dec)
    gain = (target * raw).sum() / raw.square().sum()
    sae.W_enc.mul_(gain)
    sae.threshold.mul_(gain)
    return sae


def activations(sae: SAE, n: int, g: torch.Generator) -> torch.Tensor:
    """x [n, d] near norm sqrt(d): `PLANTED` atoms with codes near 1, some noise, and the decoder's bias."""
    d, m = sae.config.d, sae.config.m
    chosen = torch.randint(m, (n, min(PLANTED, m)), generator=g)
    codes = torch.randn(chosen.shape, generator=g).abs() + 0.5
    x = torch.nn.functional.embedding_bag(chosen, sae.W_dec.cpu(), per_sample_weights=codes, mode="sum")
    x = x / x.norm(dim=1, keepdim=True) * d**0.5 + 0.3 * torch.randn(n, d, generator=g)
    return x + sae.b_dec.cpu()


def write_activations(file: Path, sae: SAE, n: int, seed: int) -> None:
    """An .npy of [sequences, 125, d] float32 written a block at a time, a document a sequence."""
    count, g = -(-n // SEQUENCE), torch.Generator().manual_seed(seed + 1)
    out = np.lib.format.open_memmap(file, "w+", np.float32, (count, SEQUENCE, sae.config.d))
    for start in range(0, count, 16):
        part = out[start : start + 16]
        part[:] = activations(sae, len(part) * SEQUENCE, g).numpy().reshape(part.shape)
    out.flush()
