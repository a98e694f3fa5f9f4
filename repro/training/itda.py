"""ITDA: a dictionary of activations themselves, taken where the atoms so far explain least (arXiv 2505.17769)."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.activations.rows import Rows
from repro.base.errors import BadInput
from repro.sae import SAE, Source, TopK
from repro.solvers import pursuit
from repro.training.weights import geometric_median

BATCHES = 32  # in which the tokens are read; each gives as many atoms
POOL = 16  # tokens that are read for each atom


@torch.no_grad()
def itda(rows: Rows, m: int, k: int, seed: int = 0) -> SAE:
    """A Top-K SAE of m atoms from activations less their geometric median; its encoder is its decoder transposed.

    Batch after batch of tokens, drawn by the seed, is explained by pursuit of k of the atoms so far, and the worst
    explained directions become atoms. The paper's rule has a threshold of the error instead of a number of atoms.
    Raises BadInput where there are fewer tokens than atoms.
    """
    n = min(POOL * m, rows.n)
    if n < m:
        raise BadInput(f"ITDA takes its {m} atoms from as many tokens, and there are {rows.n}: collect more.")
    x = rows.take(n, seed=seed).x
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    centre = geometric_median(x[:4096])
    atoms = x.new_zeros(0, x.shape[1])
    for i, batch in enumerate((x - centre).tensor_split(min(BATCHES, m))):
        more = min(m * (i + 1) // min(BATCHES, m) - len(atoms), len(batch))
        atoms = torch.cat([atoms, worst(batch, atoms, k, more)])
    sae = TopK(TopK.Config(x.shape[1], len(atoms), k=k), Source(family="itda")).requires_grad_(False)
    sae.W_dec.copy_(atoms)
    sae.W_enc.copy_(atoms.t())
    sae.b_dec.copy_(centre)
    return sae


def worst(x: Tensor, atoms: Tensor, k: int, count: int) -> Tensor:
    """Directions of the `count` tokens of x [n, d] of which pursuit of k atoms [m, d] explains the smallest share."""
    left = x if not len(atoms) else x - pursuit(x, atoms, min(k, len(atoms))).decode(atoms)
    share = left.square().sum(1) / x.square().sum(1).clamp_min(1e-30)
    return torch.nn.functional.normalize(x[share.topk(count).indices])
