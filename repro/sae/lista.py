"""LISTA: Top-K whose encoder is a few learned steps of ISTA (Gregor and LeCun 2010), or of hard thresholding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.sae import base, topk


@dataclass(frozen=True, kw_only=True)
class Config(topk.Config):
    """Knobs of LISTA."""

    unrolled: int = 3
    """Steps after the first guess."""
    inner: Literal["threshold", "topk"] = "threshold"
    """Codes between two steps: scores above a learned threshold, less that threshold; or the k largest scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unrolled < 1:
            raise BadInput(f"unrolled is {self.unrolled}; LISTA needs at least one step (topk has none).")
        if self.inner not in ("threshold", "topk"):
            raise BadInput(f"inner is '{self.inner}'; it must be threshold or topk.")


class LISTA(topk.TopK):
    """p_0 = y W_enc + b_enc; p_t = z_t + s_t (y - z_t W_dec) W_step; z = the k largest of ReLU(p_T); y = x - b_dec.

    z_t = ReLU(p_{t-1} - theta), or the k largest of ReLU(p_{t-1}). W_step [d, m], s [T], theta [m]. With W_step = W_dec
    transposed, where training begins, p_t is a step of ISTA of length s_t.
    """

    name = "lista"
    released_topk = False
    trainer_class = ""
    per_latent = ("b_enc", "theta")
    first_step: ClassVar[float] = 0.3
    """Length of each step before training, in units where an atom alone would take 1."""
    Config: ClassVar[type[Any]] = Config

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        self.W_step = nn.Parameter(torch.zeros(config.d, config.m))
        self.s = nn.Parameter(torch.full((config.unrolled,), self.first_step))
        self.theta = nn.Parameter(torch.zeros(config.m))

    def begin(self, generator: torch.Generator) -> None:
        self.W_step.copy_(self.W_dec.t())

    def pre(self, x: Tensor) -> Tensor:
        return self._unrolled(x)

    def encode_block(self, x: Tensor) -> SparseCodes:
        return SparseCodes.from_dense(topk.TopK.activate(self, self._unrolled(x)))

    def _unrolled(self, x: Tensor) -> Tensor:
        """Scores [n, m] after the last step."""
        y, explained = self.encoder_input(x), self.target(x)
        p = y @ self.W_enc + self.b_enc
        for step in self.s:
            z = (p - self.theta).relu() if self.config.inner == "threshold" else topk.TopK.activate(self, p)
            p = z + step * ((explained - z @ self.W_dec) @ self.W_step)
        return p
