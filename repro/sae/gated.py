"""Gated: one path decides whether a latent fires, another how strongly (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from repro import ops
from repro.codes import SparseCodes
from repro.sae import base


class Gated(base.SAE):
    """u = (x - b_dec) W_enc;  z = 1[u + gate_bias > 0] ReLU(exp(r_mag) u + mag_bias).

    gate_bias, mag_bias, r_mag are [m]. `pre` gives u: the encoder has no bias of its own, so b_enc is a
    buffer of zeros here, not a parameter.
    """

    name = "gated"
    per_latent = ("b_enc", "gate_bias", "mag_bias")
    sparsity = "l1_penalty"
    l1_grid = (0.012, 0.018, 0.024, 0.04, 0.06, 0.08)
    betas = (0.0, 0.999)  # dictionary_learning's
    trainer_class = "GatedSAETrainer"

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        del self.b_enc
        self.register_buffer("b_enc", torch.zeros(config.m))
        self.gate_bias = nn.Parameter(torch.zeros(config.m))
        self.mag_bias = nn.Parameter(torch.zeros(config.m))
        self.r_mag = nn.Parameter(torch.zeros(config.m))

    def activate(self, pre: Tensor) -> Tensor:
        return (pre + self.gate_bias > 0) * (self.r_mag.exp() * pre + self.mag_bias).relu()

    def encode_block(self, x: Tensor) -> SparseCodes:
        gates = -self.gate_bias, self.r_mag.exp(), self.mag_bias
        return ops.encode_gated(self.encoder_input(x), self.W_enc, self.b_enc, *gates)
