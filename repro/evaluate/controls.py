"""Controls: dictionaries and encoders that learned nothing, and codes that only refine what the encoder chose."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from repro.base.files import digest
from repro.evaluate.data import Tokens
from repro.evaluate.stream import TokenSums
from repro.sae import SAE, TopK


def random_directions(n: int, d: int, norms: Tensor | float, seed: int, what: str) -> Tensor:
    """n Gaussian directions as rows [n, d], of the given norms (a number, or [n]).

    Seeded by `seed` and `what` they are for: an SAE that was drawn with the same seed is not drawn again.
    """
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(int(digest(what, seed)[:15], 16)))
    rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return rows * (norms.cpu()[:, None] if isinstance(norms, Tensor) else norms)


def random_dictionary(sae: SAE, seed: int) -> SAE:
    """The SAE with random unit atoms; everything else is shared with it, not copied."""
    out = copy.copy(sae)
    out._parameters = dict(sae._parameters)
    atoms = random_directions(sae.config.m, sae.config.d, 1.0, seed, "random_dictionary").to(sae.W_dec)
    out.W_dec = nn.Parameter(atoms, requires_grad=False)
    return out


def random_encoder(sae: SAE, k: int, seed: int) -> TopK:
    """Top-k of random encoder directions with the learned ones' norms, no biases of latents, the same dictionary."""
    c = sae.config
    out = TopK(TopK.Config(1, 1, k=1), sae.source)
    out.config = TopK.Config(c.d, c.m, k=k, centred=sae.centred, normalisation=c.normalisation)
    rows = random_directions(c.m, c.d, sae.W_enc.detach().norm(dim=0), seed, "random_encoder").to(sae.W_enc)
    out.W_enc = nn.Parameter(rows.T, requires_grad=False)
    out.b_enc = nn.Parameter(torch.zeros_like(sae.b_enc), requires_grad=False)
    out.W_dec, out.b_dec = sae.W_dec, sae.b_dec
    return out.to(sae.W_dec.device).requires_grad_(False)


class SecondMoments:
    """Σx and Σxxᵀ in float64: all that a principal component analysis needs."""

    def __init__(self, d: int, device: torch.device | str):
        self.n = 0
        self.x = torch.zeros(d, dtype=torch.float64, device=device)
        self.xx = torch.zeros(d, d, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        wide = x.double()
        self.n += len(x)
        self.x += wide.sum(0)
        self.xx.addmm_(wide.T, wide)

    def components(self, rank: int) -> tuple[Tensor, Tensor]:
        """(mean [d], the first `rank` principal directions as columns [d, rank])."""
        mean = self.x / max(self.n, 1)
        covariance = self.xx / max(self.n, 1) - torch.outer(mean, mean)
        return mean, torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :rank]


def pca_row(tokens: Tokens, rank: int, size: int, device: Any, bar: tqdm[Any]) -> dict[str, Any]:
    """NMSE and FVE of the best affine subspace of `rank` dimensions, cross-fitted over documents.

    Tokens of even documents are projected on the components of the odd ones, and the other way round, so that no
    token is in its own fit; a single document is fitted in sample, and the note says so.
    """
    fold = tokens.docs % 2
    several = bool(fold.any())
    moments = [SecondMoments(tokens.x.shape[1], device) for _ in range(2)]
    for rows, x in tokens.blocks(size, device):
        for f in range(2):
            moments[f].add(x[(fold[rows] == f).to(x.device)])
    fits = [moments[1 - f if several else f].components(rank) for f in range(2)]
    sums = TokenSums(tokens.docs)
    for rows, x in tokens.blocks(size, device):
        x_hat = torch.empty_like(x)
        for f, (mean, basis) in enumerate(fits):
            here = (fold[rows] == f).to(x.device)
            part = x[here].double() - mean
            x_hat[here] = (mean + part @ basis @ basis.T).to(x.dtype)
        sums.add(rows, x, x_hat, None)
        bar.update(len(x))
    row: dict[str, Any] = {"L0": float(rank), **sums.value()}
    return row if several else row | {"note": "PCA was fitted on the evaluated tokens: they are of one document."}
