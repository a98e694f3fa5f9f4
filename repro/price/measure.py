"""One pass over tokens: error, nonzeros, dead latents and time of one kind of codes, with intervals over documents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.codes import SparseCodes
from repro.evaluate import Tokens, TokenSums
from repro.inference import spread
from repro.price.codes import Method, pass_flops
from repro.sae import SAE

WARM_UP = 8  # tokens on which a method runs first: what is compiled or derived from the dictionary is not timed

Watch = Callable[[slice, Tensor, SparseCodes, SparseCodes, Tensor], None]
"""Called with which tokens, their activations, the encoder's codes, the codes, and the reconstructions."""


@dataclass(frozen=True)
class Measure:
    """The tokens of an SAE, and how they are gone through."""

    sae: SAE
    tokens: Tokens
    size: int
    """Tokens of a block."""
    bar: tqdm[Any] = field(repr=False)

    def row(self, method: Method, watch: Watch | None = None) -> dict[str, Any]:
        """L0, NMSE, FVE and dead rate with intervals, ms and FLOPs a token, and the sums of each group of documents."""
        device = self.sae.W_dec.device
        sums, seconds = TokenSums(self.tokens.docs), 0.0
        few = self.tokens.x[: min(WARM_UP, len(self.tokens))].to(device)
        method.codes(few, self.sae.encode_sparse(few))
        for rows, x in self.tokens.blocks(self.size, device):
            start = time.perf_counter()
            guess = self.sae.encode_sparse(x)
            if not method.needs_encoder:
                start = time.perf_counter()
            codes = method.codes(x, guess)
            seconds += time.perf_counter() - start
            x_hat = method.sae.decode(codes, x).detach()
            sums.add(rows, x, x_hat, codes)
            if watch is not None:
                watch(rows, x, guess, codes, x_hat)
            self.bar.update(len(x))
        out: dict[str, Any] = {k: v for k, v in sums.value().items() if not k.startswith("dense")}
        own = pass_flops(self.sae) if method.needs_encoder else 0.0
        out |= {
            "ms_per_token": 1e3 * seconds / len(self.tokens),
            "flops_per_token": own + method.flops(out["L0"]),
            "n_tokens": len(self.tokens),
            "groups": [[r.n, r.sse, r.sxx] for r in sums.groups("reconstruction")],
        }
        return {k: v for k, v in out.items() if not (isinstance(v, float) and math.isnan(v))}


def sample_of(tokens: Tokens, size: int) -> Tokens:
    """At most `size` tokens spread evenly over all, with the documents that they are of."""
    if len(tokens) <= size:
        return tokens
    index = spread(len(tokens), size)
    return Tokens(tokens.x[index], tokens.docs[index].unique(return_inverse=True)[1], tokens.info)


def energy(x: Tensor) -> Tensor:
    """||x||² of each token, [n] float64, at least the smallest number."""
    return x.double().square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
