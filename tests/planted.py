"""Activations made of known atoms, SAEs that know them, and what is evaluated on both: one fixture for all tests."""

import dataclasses

import torch
from torch.nn.functional import normalize

from repro.evaluate import EvalData, Labelled, Tokens
from repro.sae import BatchTopK

D, M = 16, 64


def planted(cls=BatchTopK, d=D, m=M, seed=0, **knobs):
    """An SAE of unit atoms [m, d] and a bias whose encoder reads its own atoms; a code counts from 0.8 on."""
    if "k" in (field.name for field in dataclasses.fields(cls.Config)):
        knobs = {"k": 4} | knobs
    g = torch.Generator().manual_seed(seed)
    sae = cls(cls.Config(d, m, **knobs)).requires_grad_(False)
    sae.W_dec.copy_(normalize(torch.randn(m, d, generator=g), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.copy_(torch.randn(d, generator=g))
    if hasattr(sae, "threshold"):
        sae.threshold.fill_(0.8)
    else:
        sae.b_enc.fill_(-0.8)
    return sae


def tokens(sae, n, seed=1):
    """Tokens [n, d] of two atoms each on average, with a little noise."""
    g = torch.Generator().manual_seed(seed)
    d, m = sae.config.d, sae.config.m
    z = (1 + torch.rand(n, m, generator=g)) * (torch.rand(n, m, generator=g) < 2 / m)
    return z @ sae.W_dec + sae.b_dec + 0.05 * torch.randn(n, d, generator=g)


def evaluation(sae, n=330, labelled=200, seed=1, offset=0.0, shuffled=False):
    """n tokens in documents of 11; so many `labelled` ones in documents of four, of three classes, perhaps shuffled."""
    probed = None
    if labelled:
        docs, inner = torch.arange(labelled // 4), torch.arange(labelled) // 4
        inner = inner[torch.randperm(labelled)] if shuffled else inner
        some = Tokens(tokens(sae, labelled, seed + 1), inner)
        probed = Labelled(some, docs % 3, docs < len(docs) // 2, ("a", "b", "c"))
    return EvalData(Tokens(tokens(sae, n, seed) + offset, torch.arange(n) // 11), probed, f"{seed}")
