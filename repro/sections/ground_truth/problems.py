"""Problems whose codes are known: independent sources, sources as in language models, and a split by combinations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from repro.base.errors import BadInput


@dataclass(frozen=True)
class Problem:
    """Sparse codes z [n, N] >= 0 of random unit atoms D [N, M], K of them a row: x = z D + noise."""

    N: int = 16
    """Sources."""
    M: int = 8
    """Dimensions; fewer than N = superposition."""
    K: int = 3
    """Sources that are on in a row, a uniform draw of the N."""
    noise: float = 0.01
    """Standard deviation of Gaussian noise, in each dimension."""

    def __post_init__(self) -> None:
        if not 1 <= self.K <= self.N or self.M < 1 or self.noise < 0:
            raise BadInput(f"A problem needs 1 <= K <= N, M >= 1 and noise >= 0, not {self}.")

    @property
    def name(self) -> str:
        """For tables and figures."""
        return f"{self.N} sources in {self.M}, {self.K} on"

    def dictionary(self, seed: int) -> Tensor:
        """D [N, M], unit rows in Gaussian directions."""
        rows = torch.randn(self.N, self.M, generator=torch.Generator().manual_seed(seed))
        return rows / rows.norm(dim=1, keepdim=True)

    def draw(self, n: int, atoms: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(x [n, M], z [n, N]); values that are on are uniform in [0.5, 1.5], so that a support is worth finding."""
        g = torch.Generator().manual_seed(seed)
        on = torch.rand(n, self.N, generator=g).topk(self.K, dim=1).indices
        z = torch.zeros(n, self.N).scatter_(1, on, 0.5 + torch.rand(n, self.K, generator=g))
        return z @ atoms + self.noise * torch.randn(n, self.M, generator=g), z


PROBLEMS = (Problem(), Problem(256, 64, 6))
"""O'Neill, Gumran and Klindt (2025): 16 sources in 8 dimensions; and a larger one in superposition."""


@dataclass(frozen=True)
class Hard(Problem):
    """Sources as SynthSAEBench (arXiv 2602.14687) has them: correlated, Zipfian, hierarchical; K on in the mean.

    Source 4 f is the parent of family f, the next three its children. A parent is on where a Gaussian lies in its
    upper tail; the Gaussians of one group have correlation `rho` (a Gaussian copula). A parent that is on turns on one
    of its children or none, each with probability 1/4, so children exclude each other, as there.
    """

    N: int = 1024
    M: int = 96
    K: int = 8
    """Sources that are on in a row, in the mean."""
    noise: float = 0.05
    rho: float = 0.3
    """Correlation of the Gaussians of parents in one group."""
    group: int = 8
    """Families in a group; family f is in group f modulo the number of groups, frequent and rare ones together."""

    FAMILY, EXPONENT = 4, 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.N % self.FAMILY or not 0 <= self.rho < 1 or not 1 <= self.group <= self.N // self.FAMILY:
            raise BadInput(
                f"A hard problem needs N divisible by {self.FAMILY}, 0 <= rho < 1 and 1 <= group <= N / {self.FAMILY}, "
                f"not {self}."
            )
        if float(self.frequencies.max()) >= 0.5:
            raise BadInput(f"With K = {self.K} the most frequent source is on in half of the rows or more; lower K.")

    @cached_property
    def frequencies(self) -> Tensor:
        """P(source is on), [N]: of parents proportional to rank^-1/2 (Zipf), of a child a quarter of its parent's."""
        parents = torch.arange(1, self.N // self.FAMILY + 1, dtype=torch.double) ** -self.EXPONENT
        parents *= self.K / (parents.sum() * (2 - 1 / self.FAMILY))
        share = torch.full((self.FAMILY,), 1 / self.FAMILY, dtype=torch.double)
        share[0] = 1.0
        return torch.outer(parents, share).flatten()

    @property
    def name(self) -> str:
        return f"{self.N} sources in {self.M}, about {self.K} on"

    def draw(self, n: int, atoms: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(x [n, M], z [n, N]); values that are on are uniform in [0.5, 1.5]."""
        g = torch.Generator().manual_seed(seed)
        families = self.N // self.FAMILY
        groups = families // self.group
        shared = torch.randn(n, groups, generator=g)[:, torch.arange(families) % groups]
        normal = math.sqrt(self.rho) * shared + math.sqrt(1 - self.rho) * torch.randn(n, families, generator=g)
        parents = normal > -torch.special.ndtri(self.frequencies[:: self.FAMILY]).float()
        child = torch.randint(self.FAMILY, (n, families, 1), generator=g)  # 0: none
        on = torch.zeros(n, families, self.FAMILY, dtype=torch.bool)
        on[:, :, 0] = parents
        on.scatter_(2, child, parents[:, :, None])
        z = (0.5 + torch.rand(n, self.N, generator=g)) * on.flatten(1)
        return z @ atoms + self.noise * torch.randn(n, self.M, generator=g), z


@dataclass(frozen=True)
class Split(Problem):
    """Combinations left out of training, as Barin Pacela et al. (arXiv 2603.28744; data.py of their code) do it.

    Sources but the first fall into two halves. Half of the rows have the first source on, with K − 1 of the first half;
    the others K of all but the first. Unseen rows have the first source on with K − 1 of the second half. Values are
    uniform in [0, 1], there is no noise, and M = 2 K ln(N / K).
    """

    K: int = 10
    noise: float = 0.0
    unseen: bool = False
    """Draw the combinations that training never shows."""

    @classmethod
    def of(cls, sources: int) -> Split:
        """Their problem of this many sources."""
        return cls(sources, math.ceil(2 * cls.K * math.log(sources / cls.K)))

    @property
    def name(self) -> str:
        return f"{super().name}, {'unseen' if self.unseen else 'seen'} combinations"

    def draw(self, n: int, atoms: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(x [n, M], z [n, N])."""
        g = torch.Generator().manual_seed(seed)
        order = torch.rand(n, self.N, generator=g)
        with_first = torch.rand(n, generator=g) < (1.0 if self.unseen else 0.5)
        half = self.N - self.N // 2
        out = slice(1, half) if self.unseen else slice(half, None)
        order[with_first, out] = -1
        order[:, 0] = torch.where(with_first, 2.0, -1.0)
        on = order.topk(self.K, dim=1).indices
        z = torch.zeros(n, self.N).scatter_(1, on, torch.rand(n, self.K, generator=g))
        return z @ atoms + self.noise * torch.randn(n, self.M, generator=g), z
