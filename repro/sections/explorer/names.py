"""The meaning of a latent: the contexts that activate it most, how often it fires, and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.activations.contexts import Context, context_of
from repro.activations.rows import Rows
from repro.sae import SAE

BLOCK = 4096  # rows that are encoded at a time


@dataclass
class Library:
    """The nonzero codes of many tokens, sorted by latent and then by size."""

    rows: Rows
    tokenizer: Any
    atoms: Tensor
    """Rows of W_dec with unit norm, [m, d]."""
    where: np.ndarray
    """Row number of each nonzero code."""
    value: np.ndarray
    start: np.ndarray
    """Codes of latent j are start[j] … start[j + 1], largest first; [m + 1]."""
    _names: dict[tuple[int, int], str] = field(default_factory=dict, repr=False)

    @classmethod
    @torch.no_grad()
    def of(cls, sae: SAE, rows: Rows, tokenizer: Any) -> Library:
        """Encode all rows with the SAE's own encoder."""
        parts, first = [], 0
        for x in rows.blocks(BLOCK):
            codes = sae.encode_sparse(x)
            row, column = torch.nonzero(codes.values > 0, as_tuple=True)
            parts.append((row + first, codes.indices[row, column], codes.values[row, column]))
            first += len(x)
        where, latent, value = (torch.cat(part).numpy() for part in zip(*parts))
        order = np.lexsort((-value, latent))
        counts = np.bincount(latent, minlength=sae.config.m)
        start = np.concatenate([[0], np.cumsum(counts)])
        norm = sae.W_dec.norm(dim=1, keepdim=True)
        return cls(rows, tokenizer, sae.W_dec / norm.clamp_min(1e-12), where[order], value[order], start)

    def rate(self, latent: int) -> float:
        """The share of tokens on which the latent fires."""
        return float(self.start[latent + 1] - self.start[latent]) / max(self.rows.n, 1)

    def contexts(self, latent: int, count: int = 5, width: int = 10) -> list[Context]:
        """The places where the latent is largest, one a document, with `width` tokens on either side."""
        out: list[Context] = []
        seen: set[int] = set()
        docs = self.rows.docs
        for i in range(self.start[latent], self.start[latent + 1]):
            row = int(self.where[i])
            if len(out) == count:
                break
            if int(docs[row]) not in seen:
                seen.add(int(docs[row]))
                position, value = int(self.rows.index[row]), float(self.value[i])
                out.append(context_of(self.rows.store, self.tokenizer, position, value, width))
        return out

    def words(self, latent: int, count: int = 3) -> str:
        """A short name: the tokens that activate the latent most, each once; empty if it never fires."""
        if (latent, count) not in self._names:
            words = dict.fromkeys(" ".join(c.token.split()) for c in self.contexts(latent, 3 * count, width=0))
            self._names[latent, count] = " · ".join([word for word in words if word][:count])
        return self._names[latent, count]

    def neighbours(self, latent: int, count: int = 5) -> list[tuple[int, float]]:
        """Latents whose atoms point most nearly the same way, with the cosine."""
        cosine = self.atoms @ self.atoms[latent]
        cosine[latent] = -2.0
        best = cosine.topk(min(count, len(cosine) - 1))
        return list(zip(best.indices.tolist(), best.values.tolist()))
