"""MLP: Top-K whose encoder has a hidden layer beside the linear one (O'Neill, Gumran and Klindt 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repro import ops
from repro.codes import SparseCodes
from repro.sae import base, topk


@dataclass(frozen=True, kw_only=True)
class Config(topk.Config):
    """Knobs of MLP."""

    hidden: int | None = None
    """Units of the hidden layer; twice the width of the activations if not given."""


class MLP(topk.TopK):
    """z = the k largest of ReLU(y W_enc + ReLU(y W_in + b_in) W_out + b_enc), y = x - b_dec.

    W_in [d, h], b_in [h], W_out [h, m]. With W_out = 0, where training begins, it is the linear encoder.
    """

    name = "mlp"
    released_topk = False
    trainer_class = ""
    Config: ClassVar[type[Any]] = Config

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        hidden = 2 * config.d if config.hidden is None else config.hidden
        self.W_in = nn.Parameter(torch.zeros(config.d, hidden))
        self.b_in = nn.Parameter(torch.zeros(hidden))
        self.W_out = nn.Parameter(torch.zeros(hidden, config.m))

    @property
    def biases(self) -> tuple[str, ...]:
        return (*super().biases, "b_in")

    def begin(self, generator: torch.Generator) -> None:
        self.W_in.copy_(torch.randn(self.W_in.shape, generator=generator) / self.config.d**0.5)

    def pre(self, x: Tensor) -> Tensor:
        return self._wide(x) @ self._weights() + self.b_enc

    def encode_block(self, x: Tensor) -> SparseCodes:
        return self.unweighted(ops.encode_topk(self._wide(x), *self.weighted(), self.config.k))

    def _wide(self, x: Tensor) -> Tensor:
        """Input and hidden layer side by side, [n, d + h]: one linear encoder reads both."""
        y = self.encoder_input(x)
        return torch.cat([y, (y @ self.W_in + self.b_in).relu()], dim=1)

    def _weights(self) -> Tensor:
        return torch.cat([self.W_enc, self.W_out])

    def weighted(self) -> tuple[Tensor, Tensor]:
        weights = self._weights()
        return (weights * self.weight, self.b_enc * self.weight) if self.config.by_norm else (weights, self.b_enc)
