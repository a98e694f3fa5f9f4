"""TopK: the k largest latents of each token (Gao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.sae import base


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Knobs of TopK."""

    k: int
    """Latents a token may use."""
    by_norm: bool = False
    """Do latents compete by what they contribute, their score times the norm of their atom? Codes are the scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.m:
            raise BadInput(f"k is {self.k}; it must lie between 1 and the number of latents, {self.m}.")


class TopK(base.SAE):
    """z = the k largest of ReLU((x - b_dec) W_enc + b_enc) in each row, so L0 <= k.

    ReLU first, as dictionary_learning; libraries that select first agree except where scores tie at 0.
    The buffer `threshold` [] is a training statistic (-1 = unset) that inference does not use.
    """

    name = "topk"
    latents_compete = True
    released_topk = True
    sparsity: ClassVar[Literal["k"] | None] = "k"
    trainer_class = "TopKTrainer"
    Config: ClassVar[type[Any]] = Config
    threshold: Tensor

    def __init__(self, config: Any, source: base.Source | None = None):
        super().__init__(config, source)
        self.register_buffer("threshold", torch.tensor(-1.0))

    @property
    def weight(self) -> Tensor:
        """What a score is multiplied by before latents compete if config.by_norm: the norm of its atom, [m]."""
        return self.W_dec.norm(dim=1).clamp_min(1e-30)

    def activate(self, pre: Tensor) -> Tensor:
        p = pre.relu()
        best = (p * self.weight if self.config.by_norm else p).topk(self.config.k, dim=-1, sorted=False).indices
        return torch.zeros_like(pre).scatter(-1, best, p.gather(-1, best))

    def encode_block(self, x: Tensor) -> SparseCodes:
        return self.unweighted(ops.encode_topk(self.encoder_input(x), *self.weighted(), self.config.k))

    def weighted(self) -> tuple[Tensor, Tensor]:
        """W_enc and b_enc of the scores by which latents compete."""
        if not self.config.by_norm:
            return self.W_enc, self.b_enc
        return self.W_enc * self.weight, self.b_enc * self.weight

    def unweighted(self, codes: SparseCodes) -> SparseCodes:
        """Codes from the scores by which latents compete."""
        return replace(codes, values=codes.values / self.weight[codes.indices]) if self.config.by_norm else codes
