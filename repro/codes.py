"""SparseCodes: the nonzeros of codes, which inference returns and metrics read; KeptCodes: those of many tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from torch import Tensor

from repro.kernels.dispatch import decode, nonzeros
from repro.kernels.pack import pack

MEMORY = 2**25  # bytes of codes in memory; the rest goes to a temporary file
NONZEROS = 2**20  # codes that are read back at a time


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


def pair_of(dtype: torch.dtype) -> np.dtype:
    """A nonzero as `KeptCodes` stores it: 8 bytes, 12 for values in float64."""
    return np.dtype([("latent", "<i4"), ("value", "<f8" if dtype == torch.float64 else "<f4")])


class KeptCodes:
    """max(z, 0) of many tokens as pairs (latent, value) of 8 bytes, in memory up to 32 MiB and then in a file.

    signed: negative codes are stored too. dtype: of the values; pairs of float64 take 12 bytes.
    file: an open binary file for the pairs, whose first rows have `counts` nonzeros [n] already. If not given, the file
    lies where `tempfile` puts it (set TMPDIR to move it) and vanishes with the object.
    `keep[i:j]` reads rows back as SparseCodes; `blocks()` reads all of them in order, `whole()` at once.
    """

    def __init__(
        self,
        m: int,
        device: torch.device | str = "cpu",
        signed: bool = False,
        dtype: torch.dtype = torch.float32,
        file: IO[bytes] | None = None,
        counts: Tensor | None = None,
    ):
        self.m, self.device, self.signed, self.dtype = m, device, signed, dtype
        self.pair = pair_of(dtype)
        self.file = file or tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115 -- closed with this object
        self.counts: list[Tensor] = [] if counts is None else [counts]
        self.starts: np.ndarray | None = None

    def append(self, codes: SparseCodes) -> None:
        """Add rows at the end."""
        on = (codes.values != 0 if self.signed else codes.values > 0).cpu()
        pairs = np.empty(int(on.sum()), self.pair)
        pairs["latent"] = codes.indices.cpu()[on].numpy()
        pairs["value"] = codes.values.cpu()[on].numpy()
        self.file.write(pairs.tobytes())
        self.counts.append(on.sum(1))
        self.starts = None

    def __len__(self) -> int:
        return sum(len(c) for c in self.counts)

    def _starts(self) -> np.ndarray:
        if self.starts is None:
            counts = torch.cat([torch.zeros(1, dtype=torch.long), *self.counts])
            self.starts = counts.cumsum(0).numpy()
        return self.starts

    def _empty(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Zeros for the values and indices of rows start … stop."""
        width = max(1, int(np.diff(self._starts()[start : stop + 1]).max(initial=0)))
        shape = max(0, stop - start), width
        return torch.zeros(shape, dtype=self.dtype), torch.zeros(shape, dtype=torch.long)

    def _fill(self, values: Tensor, indices: Tensor, start: int, stop: int) -> None:
        """Read rows start … stop into the first rows of values and indices."""
        offsets = self._starts()[start : stop + 1] if stop > start else np.zeros(1, np.int64)
        self.file.seek(int(offsets[0]) * self.pair.itemsize)
        pairs = np.frombuffer(self.file.read(int(offsets[-1] - offsets[0]) * self.pair.itemsize), self.pair)
        counts = np.diff(offsets)
        row = np.repeat(np.arange(len(counts)), counts)
        slot = np.arange(len(pairs)) - (offsets[:-1] - offsets[0])[row]
        values.numpy()[row, slot], indices.numpy()[row, slot] = pairs["value"], pairs["latent"]
        self.file.seek(0, 2)

    def __getitem__(self, rows: slice) -> SparseCodes:
        start, stop, _ = rows.indices(len(self))
        values, indices = self._empty(start, stop)
        self._fill(values, indices, start, stop)
        return SparseCodes(values, indices, self.m).to(self.device)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """First row and end of neighbouring parts with about `NONZEROS` nonzeros each."""
        starts, start = self._starts(), 0
        while start < len(self):
            stop = int(np.searchsorted(starts, starts[start] + NONZEROS, "right")) - 1
            stop = min(len(self), max(stop, start + 1), start + 8192)
            yield start, stop
            start = stop

    def blocks(self) -> Iterator[SparseCodes]:
        """All rows in order, about `NONZEROS` nonzeros at a time."""
        return (self[start:stop] for start, stop in self._parts())

    def whole(self) -> SparseCodes:
        """All rows; beside them, about `NONZEROS` nonzeros are in memory at a time."""
        values, indices = self._empty(0, len(self))
        for start, stop in self._parts():
            self._fill(values[start:stop], indices[start:stop], start, stop)
        return SparseCodes(values, indices, self.m).to(self.device)


def gathered(parts: Iterator[SparseCodes]) -> SparseCodes:
    """Stack blocks of rows, at least one, that are computed one by one.

    On a CPU nothing but the result grows with their number: they wait in `KeptCodes`, without explicit zeros.
    """
    first, second = next(parts), next(parts, None)
    if second is None:
        return first
    if first.values.device.type != "cpu":
        return SparseCodes.cat([first, second, *parts])
    keep = KeptCodes(first.m, signed=True, dtype=first.values.dtype)
    keep.append(first)
    keep.append(second)
    del first, second
    for part in parts:
        keep.append(part)
    return keep.whole()
