"""Matryoshka BatchTopK: nested prefixes of the dictionary, each able to reconstruct (Bussmann et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from repro.base.errors import BadInput
from repro.sae import base, batch_topk

PREFIXES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32)
"""Shares of the latents in the groups that training makes."""


@dataclass(frozen=True, kw_only=True)
class Config(batch_topk.Config):
    """Knobs of Matryoshka BatchTopK."""

    group_sizes: tuple[int, ...]
    """Latents of each group, in order; they add up to m."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base.check_groups(self.group_sizes, self.m)


class MatryoshkaBatchTopK(batch_topk.BatchTopK):
    """BatchTopK inference over all latents; the first groups, together, are dictionaries of their own."""

    name = "matryoshka_batch_topk"
    trainer_class = "MatryoshkaBatchTopKTrainer"
    Config: ClassVar[type[Any]] = Config

    @classmethod
    def trained_config(cls, d: int, m: int, sparsity: float) -> Any:
        """BatchTopK's, and the group sizes of `group_sizes`."""
        return cls.Config(d, m, k=int(sparsity), group_sizes=group_sizes(m))


def group_sizes(m: int) -> tuple[int, ...]:
    """Group sizes for m latents: PREFIXES of m, rounded down, the rest in the last group."""
    head = tuple(max(1, int(share * m)) for share in PREFIXES[:-1])
    if sum(head) >= m:
        raise BadInput(f"m is {m}; Matryoshka needs at least {len(PREFIXES)} latents, better a multiple of 32.")
    return (*head, m - sum(head))
