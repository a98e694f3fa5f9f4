"""GLU: scores scaled by a sigmoid gate of their own, then a threshold (llamascopium's use_glu_encoder)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from repro.codes import SparseCodes
from repro.sae import base, jumprelu

_COLUMNS = 4096  # latents whose scores are in memory at a time


class GLU(jumprelu.JumpReLU):
    """z = ReLU(pre 1[pre > threshold]) with pre = (x W_enc + b_enc) sigmoid(x W_gate + b_gate).

    W_gate [d, m], b_gate [m]; a threshold of 0 is ReLU.
    """

    name = "glu"
    sparsity = None
    trainer_class = ""

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        self.W_gate = nn.Parameter(torch.zeros(config.d, config.m))
        self.b_gate = nn.Parameter(torch.zeros(config.m))

    def pre(self, x: Tensor) -> Tensor:
        return self._scores(self.encoder_input(x), slice(None))

    def _scores(self, x: Tensor, latents: slice) -> Tensor:
        """Pre-activations of some latents, [n, len(latents)], of what the encoder reads."""
        gate = (x @ self.W_gate[:, latents] + self.b_gate[latents]).sigmoid()
        return (x @ self.W_enc[:, latents] + self.b_enc[latents]) * gate

    def encode_block(self, x: Tensor) -> SparseCodes:
        x, values, columns = self.encoder_input(x), [], []
        for start in range(0, self.config.m, _COLUMNS):
            latents = slice(start, start + _COLUMNS)
            pre = self._scores(x, latents)
            part = SparseCodes.from_dense((pre * (pre > self.threshold[latents])).relu())
            values.append(part.values)
            columns.append(part.indices + start)
        return SparseCodes.packed(torch.cat(values, 1), torch.cat(columns, 1), self.config.m)
