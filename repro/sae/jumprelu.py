"""JumpReLU: a threshold of its own for every latent (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from repro import ops
from repro.codes import SparseCodes
from repro.sae import base


@dataclass(frozen=True)
class Config(base.Config):
    """Knobs of JumpReLU."""

    centred: bool = False
    """dictionary_learning and GemmaScope do not subtract b_dec; SAELens does."""


class JumpReLU(base.SAE):
    """z = ReLU(pre 1[pre > threshold]), pre = x W_enc + b_enc, strictly above.

    `threshold` [m] is the raw threshold (not its log), a parameter because training learns it (from 0.001, as
    dictionary_learning starts); it may be negative, and then the outer ReLU decides.
    """

    name = "jumprelu"
    per_latent = ("b_enc", "threshold")
    sparsity: ClassVar[Literal["target_l0"] | None] = "target_l0"
    betas = (0.0, 0.999)  # dictionary_learning's
    trainer_class = "JumpReluTrainer"
    Config: ClassVar[type[Any]] = Config

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        self.threshold = nn.Parameter(torch.full((config.m,), 0.001))

    def activate(self, pre: Tensor) -> Tensor:
        return (pre * (pre > self.threshold)).relu()

    def encode_block(self, x: Tensor) -> SparseCodes:
        return ops.encode_above(self.encoder_input(x), self.W_enc, self.b_enc, self.threshold)
