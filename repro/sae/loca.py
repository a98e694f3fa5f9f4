"""LocA: unit-norm input and a top-k of its own in every group of latents (the paper's section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.sae import base


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Knobs of LocA."""

    group_sizes: tuple[int, ...]
    """Latents of each group, in order; they add up to m."""
    group_ks: tuple[int, ...]
    """Latents that a token may use in each group."""
    centred: bool = False
    """The release has no decoder bias at all."""
    normalisation: Literal["none", "unit_norm", "sqrt_d_norm", "layer_norm"] = "unit_norm"
    """Tokens are divided by their norm, and the reconstruction multiplied by it again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base.check_groups(self.group_sizes, self.m)
        if len(self.group_ks) != len(self.group_sizes):
            raise BadInput(f"{len(self.group_ks)} group_ks for {len(self.group_sizes)} groups; give one k a group.")
        if any(not 1 <= k <= size for k, size in zip(self.group_ks, self.group_sizes, strict=True)):
            raise BadInput(f"group_ks {self.group_ks} must lie between 1 and the group sizes {self.group_sizes}.")

    @property
    def k(self) -> int:
        """The largest possible L0."""
        return sum(self.group_ks)


class LocA(base.SAE):
    """In each group i: z = ReLU of the k_i largest of (x / |x|) W_enc + b_enc, signed scores competing.

    Latents lie group after group. The release's separate encoders are column blocks of W_enc here, its decoders
    row blocks of W_dec. decode(z, x) gives raw units; z and `target` are in units of the normalised token.
    """

    name = "loca"
    latents_compete = True
    Config: ClassVar[type[Any]] = Config

    def activate(self, pre: Tensor) -> Tensor:
        parts = []
        for p, k in zip(pre.split(self.config.group_sizes, dim=-1), self.config.group_ks, strict=True):
            # of equal scores, max keeps the first, as sparsify's groupmax and the kernels do, and topk any
            values, indices = p.max(dim=-1, keepdim=True) if k == 1 else p.topk(k, dim=-1, sorted=False)
            parts.append(torch.zeros_like(p).scatter(-1, indices, values.relu()))
        return torch.cat(parts, dim=-1)

    def encode_block(self, x: Tensor) -> SparseCodes:
        c = self.config
        return ops.encode_topk(self.encoder_input(x), self.W_enc, self.b_enc, c.group_ks, c.group_sizes)
