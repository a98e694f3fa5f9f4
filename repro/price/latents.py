"""Latents and tokens: who stays silent by tokens seen, whom the encoder misses, where its guess is worst."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.price.measure import energy
from repro.sae import SAE

LATENTS, TOKENS = 12, 10  # that are listed
STRONGEST = 3  # places of each missed latent
POINTS = 24  # of the rarefaction curve

Place = Callable[[int], dict[str, Any]]
"""Number of a token -> where it is: its text and context where there are any, else its document."""


def expected_silent(fired: Tensor, n: int, t: int) -> float:
    """Expected share of latents silent on t of n tokens, drawn without replacement: mean of C(n − f, t) / C(n, t).

    fired [m]: on how many of the n tokens each latent fires. Source: Hurlbert 1971, rarefaction of species.
    """
    counts, latents = fired.cpu().unique(return_counts=True)
    left, share = n - counts.double(), latents.double() / len(fired)
    log = torch.lgamma(left + 1) - torch.lgamma((left - t).clamp_min(0) + 1)
    log += math.lgamma(n - t + 1) - math.lgamma(n + 1)
    return float((torch.where(left >= t, log.exp(), 0.0) * share).sum())


def rarefaction(fired: Tensor, n: int) -> list[tuple[int, float]]:
    """(t, `expected_silent` of t tokens) at rising t up to n."""
    return [(t, expected_silent(fired, n, t)) for t in sorted({round(n ** (i / (POINTS - 1))) for i in range(POINTS)})]


class Latents:
    """What the encoder's codes lack beside pursuit's, summed over blocks of tokens in O(m + n) memory."""

    def __init__(self, sae: SAE, n: int):
        self.sae, self.n, m = sae, n, sae.config.m
        self.fired = {name: torch.zeros(m, dtype=torch.long) for name in ("encoder", "pursuit")}
        self.missed = torch.zeros(m, dtype=torch.long)
        self.value = torch.zeros(m, STRONGEST)
        self.token = torch.zeros(m, STRONGEST, dtype=torch.long)
        self.error = torch.zeros(2, n)

    def add(self, rows: slice, x: Tensor, guess: SparseCodes, codes: SparseCodes, x_hat: Tensor) -> None:
        """Some tokens: activations, the encoder's codes, pursuit's codes and reconstructions."""
        for i, y in enumerate((self.sae.decode(guess, x).detach(), x_hat)):
            self.error[i, rows] = ((x - y).double().square().sum(1) / energy(x)).float().cpu()
        keys = []
        for name, z in (("encoder", guess), ("pursuit", codes)):
            row, slot = (z.values.cpu() > 0).nonzero(as_tuple=True)
            latent, value = z.indices.cpu()[row, slot], z.values.cpu()[row, slot]
            self.fired[name] += torch.bincount(latent, minlength=z.m)
            keys.append(row * z.m + latent)
        lost = ~torch.isin(keys[1], keys[0])
        latent, value, row = latent[lost], value[lost], row[lost]
        self.missed += torch.bincount(latent, minlength=self.sae.config.m)
        order = torch.argsort(value, descending=True, stable=True)
        order = order[torch.argsort(latent[order], stable=True)]  # by latent, its largest codes first
        latent, value, row = latent[order], value[order], row[order]
        rank = torch.arange(len(latent)) - torch.searchsorted(latent, latent)
        top = rank < STRONGEST
        new_value, new_token = torch.zeros_like(self.value), torch.zeros_like(self.token)
        new_value[latent[top], rank[top]] = value[top].float()
        new_token[latent[top], rank[top]] = row[top] + rows.start
        self.value, best = torch.cat([self.value, new_value], 1).topk(STRONGEST, dim=1)
        self.token = torch.cat([self.token, new_token], 1).gather(1, best)

    def summary(self, place: Place) -> dict[str, Any]:
        """Rarefaction curves, the latents missed on most tokens, and the tokens that the guess serves worst."""
        listed = self.missed.topk(min(LATENTS, len(self.missed))).indices
        missed = [
            {
                "latent": j,
                "missed": int(self.missed[j]),
                "pursuit": int(self.fired["pursuit"][j]),
                "encoder": int(self.fired["encoder"][j]),
                "strongest": [
                    {"code": value} | place(token)
                    for value, token in zip(self.value[j].tolist(), self.token[j].tolist())
                    if value > 0
                ],
            }
            for j in listed.tolist()
            if self.missed[j] > 0
        ]
        worst = (self.error[0] - self.error[1]).topk(min(TOKENS, self.n)).indices.tolist()
        errors = self.error.T.tolist()
        return {
            "dead_by_tokens": {name: rarefaction(fired, self.n) for name, fired in self.fired.items()},
            "missed": missed,
            "worst_tokens": [{"encoder": errors[i][0], "pursuit": errors[i][1]} | place(i) for i in worst],
        }
