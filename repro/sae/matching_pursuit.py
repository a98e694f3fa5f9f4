"""Matching pursuit as the encoder (MP-SAE, Costa et al. 2025), by the rule of SAELens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.sae import base


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Knobs of matching pursuit."""

    max_iterations: int | None = None
    """Atoms that may be chosen; None: as many as the activations are wide."""
    residual_threshold: float = 0.01
    """A token is finished when the norm of its residual is below it; 0: never for that reason."""
    stop_on_duplicate: bool = True
    """Is a token finished when an iteration brings no new atom?"""


class MatchingPursuit(base.SAE):
    """r = x - b_dec; again and again the atom d with the largest r . d gets the code ReLU(r . d), and r loses it.

    No atom is divided by its norm. W_enc is W_dec transposed, for what reads an encoder; encoding reads W_dec alone.
    """

    name = "matching_pursuit"
    latents_compete = True
    Config: ClassVar[type[Any]] = Config

    def encode(self, x: Tensor) -> Tensor:
        return self._pursue(self.encoder_input(x))

    def encode_block(self, x: Tensor) -> SparseCodes:
        return SparseCodes.from_dense(self._pursue(self.encoder_input(x)))

    def _pursue(self, r: Tensor) -> Tensor:
        """Codes [n, m] of what is to be explained, [n, d]."""
        c = self.config
        z = r.new_zeros(len(r), c.m)
        done, before = torch.zeros_like(z[:, :1], dtype=torch.bool), z != 0
        for _ in range(c.d if c.max_iterations is None else c.max_iterations):
            atom = (r @ self.W_dec.T).relu().argmax(1, keepdim=True)
            d = self.W_dec[atom.squeeze(1)]
            gain = (r * d).sum(1, keepdim=True).relu().masked_fill(done, 0.0)
            z, r = z.scatter_add(1, atom, gain), r - gain * d
            support = z != 0
            if c.stop_on_duplicate:
                done = done | (support == before).all(1, keepdim=True)
                before = support
            if c.residual_threshold > 0:
                done = done | (r.norm(dim=1, keepdim=True) < c.residual_threshold)
            if bool(done.all()):
                break
        return z
