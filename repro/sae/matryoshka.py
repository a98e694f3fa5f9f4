"""Matryoshka BatchTopK: nested prefixes of the dictionary, each able to reconstruct (Bussmann et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from torch import Tensor

from repro.base.errors import BadInput
from repro.sae import batch_topk

PREFIXES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32)
"""Shares of the latents in the groups that training makes."""


@dataclass(frozen=True, kw_only=True)
class Config(batch_topk.Config):
    """Knobs of Matryoshka BatchTopK."""

    group_sizes: tuple[int, ...]
    """Latents of each group, in order; they add up to m."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.group_sizes, default=0) < 1 or sum(self.group_sizes) != self.m:
            raise BadInput(f"group_sizes {self.group_sizes} must be positive and add up to the {self.m} latents.")


class MatryoshkaBatchTopK(batch_topk.BatchTopK):
    """BatchTopK inference over all latents; the first c latents, for c in `prefixes`, are dictionaries of their own."""

    name = "matryoshka_batch_topk"
    trainer_class = "MatryoshkaBatchTopKTrainer"
    Config: ClassVar[type[Any]] = Config

    @classmethod
    def trained_config(cls, d: int, m: int, sparsity: float) -> Any:
        """BatchTopK's, and the group sizes of `group_sizes`."""
        return cls.Config(d, m, k=int(sparsity), group_sizes=group_sizes(m))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Latents in the first 1, 2, ... groups."""
        return tuple(accumulate(self.config.group_sizes))

    def decode_prefix(self, z: Tensor, groups: int, x: Tensor | None = None) -> Tensor:
        """x_hat [n, d] from the latents of the first `groups` groups of z [n, m]."""
        if not 1 <= groups <= len(self.prefixes):
            raise BadInput(f"groups is {groups}; this SAE has {len(self.prefixes)} groups.")
        c = self.prefixes[groups - 1]
        return self.denormalise(z[:, :c] @ self.W_dec[:c] + self.b_dec, x)


def group_sizes(m: int) -> tuple[int, ...]:
    """Group sizes for m latents: PREFIXES of m, rounded down, the rest in the last group."""
    head = tuple(max(1, int(share * m)) for share in PREFIXES[:-1])
    if sum(head) >= m:
        raise BadInput(f"m is {m}; Matryoshka needs at least {len(PREFIXES)} latents, better a multiple of 32.")
    return (*head, m - sum(head))
