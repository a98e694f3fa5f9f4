"""SparseCodes: the nonzeros of codes, which inference returns and metrics read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.kernels.dispatch import decode, nonzeros
from repro.kernels.pack import pack


@dataclass(frozen=True)
class SparseCodes:
    """Codes z [n, m] kept as their nonzeros, row by row.

    `values [n, k]` and `indices [n, k]` (int64) hold each row's nonzeros first; shorter rows are padded
    with value 0 and index 0, which every reader below may add without harm. Values may be negative
    (the released code keeps signed codes). k is the largest L0 of the block, at least 1.
    """

    values: Tensor
    indices: Tensor
    m: int

    @classmethod
    def from_dense(cls, z: Tensor) -> SparseCodes:
        """z [n, m] -> codes, exactly."""
        return cls(*nonzeros(z), z.shape[1])

    @classmethod
    def packed(cls, values: Tensor, columns: Tensor, m: int) -> SparseCodes:
        """Codes from nonzeros that lie anywhere in values and columns [n, k]: put first, columns ascending."""
        return cls(*pack(values, columns, m), m)

    @classmethod
    def cat(cls, parts: Sequence[SparseCodes]) -> SparseCodes:
        """Stack blocks of rows."""
        if len(parts) == 1:
            return parts[0]
        k = max(p.values.shape[1] for p in parts)

        def pad(t: Tensor) -> Tensor:
            return torch.nn.functional.pad(t, (0, k - t.shape[1]))

        return cls(torch.cat([pad(p.values) for p in parts]), torch.cat([pad(p.indices) for p in parts]), parts[0].m)

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> SparseCodes:
        return SparseCodes(self.values[rows], self.indices[rows], self.m)

    def blocks(self, size: int) -> Iterator[SparseCodes]:
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def l0(self) -> Tensor:
        """Number of nonzeros of each row, [n]."""
        return (self.values != 0).sum(1)

    def to_dense(self) -> Tensor:
        """z [n, m]."""
        z = torch.zeros(len(self), self.m, dtype=self.values.dtype, device=self.values.device)
        return z.scatter_add_(1, self.indices, self.values)

    def columns(self, latents: Tensor) -> Tensor:
        """The dense columns z[:, latents], [n, len(latents)], without the rest."""
        where = torch.full((self.m,), len(latents), dtype=torch.long, device=self.values.device)
        where[latents] = torch.arange(len(latents), device=self.values.device)
        out = torch.zeros(len(self), len(latents) + 1, dtype=self.values.dtype, device=self.values.device)
        return out.scatter_add_(1, where[self.indices], self.values)[:, :-1]

    def decode(self, atoms: Tensor) -> Tensor:
        """z @ atoms, [n, d], from the nonzeros only; atoms [m, d]."""
        return decode(self.values, self.indices, atoms)

    def to(self, device: torch.device | str) -> SparseCodes:
        return SparseCodes(self.values.to(device), self.indices.to(device), self.m)
