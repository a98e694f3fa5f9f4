"""Chosen tokens of a store as rows: in order, in shuffled batches, or a sample."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput

WINDOW_BYTES = 2**30  # shuffled reading stays inside a window of this size, so that the page cache can hold it
RUN = 64  # neighbouring rows that enter a window together, so that a disk reads long stretches


def window_runs(d: int) -> int:
    """Runs that are shuffled together, for float32 rows of width d."""
    return max(1024, WINDOW_BYTES // (4 * d * RUN))


class Store(Protocol):
    """A source of rows, as far as they and their readers use it; `ActivationStore` is one."""

    path: Path
    x: np.ndarray
    mask: np.ndarray
    docs: np.ndarray
    tokens: np.ndarray | None
    meta: Mapping[str, Any]

    @property
    def d(self) -> int:
        """Width of the activations."""

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Rows by flat position (sequence * T + column), in the order given -> float32 [k, d]."""


@dataclass
class Batch:
    """Some rows: x [n, d] float32, docs [n] and index [n] int64 (document id; flat position in the store)."""

    x: Tensor
    docs: Tensor
    index: Tensor


@dataclass
class Rows:
    """The chosen tokens of a store as rows [n, d]; nothing is read before it is asked for."""

    store: Store
    index: np.ndarray
    description: dict[str, Any]

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.index.size)

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.store.d

    @property
    def docs(self) -> np.ndarray:
        """Document id [n] of each row."""
        return self.store.docs.reshape(-1)[self.index]

    def describe(self) -> dict[str, Any]:
        """Excluded positions and their counts (each token counted once, in the order pad, bos, eos, first, norm)."""
        return dict(self.description)

    def read(self, rows: np.ndarray | slice) -> Tensor:
        """Rows by number, in the order given -> float32 [k, d]."""
        return torch.from_numpy(self.store.read(self.index[rows]))

    def blocks(self, size: int = 8192) -> Iterator[Tensor]:
        """All rows in order, in float32 blocks [<= size, d]."""
        for i in range(0, self.n, size):
            yield self.read(slice(i, i + size))
            self.release()

    def release(self) -> None:
        """Let go of what was read of a mapped file: it would count as this process's memory, however much there is."""
        mapped = getattr(self.store.x, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def batches(self, batch_size: int, seed: int, start_batch: int = 0) -> Iterator[Tensor]:
        """Endless shuffled float32 batches [batch_size, d]; every epoch holds each row once (a batch may span two).

        The same seed gives the same batches; start_batch resumes without reading what went before. Up to 1 GB of
        rows are shuffled uniformly. A larger store is shuffled in two levels: runs of 64 neighbouring rows are dealt
        at random into windows of 1 GB, and rows are shuffled within each window; reading stays fast on a disk.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {batch_size}.")
        parts: list[Tensor] = []
        missing = batch_size
        for rows, order in self._windows(seed, start_batch * batch_size):
            while order.size:
                next_rows, order = order[:missing], order[missing:]
                parts.append(self.read(rows[next_rows]))
                missing -= next_rows.size
                if not missing:
                    yield parts[0] if len(parts) == 1 else torch.cat(parts)
                    parts, missing = [], batch_size

    def _windows(self, seed: int, position: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(row numbers of a window in file order, their shuffled order) from a position of the endless sequence on."""
        runs = -(-self.n // RUN)
        runs_per_window = window_runs(self.d)
        epoch, start = divmod(position, self.n)
        while True:
            deal = np.random.default_rng((seed, epoch, 0)).permutation(runs)
            for w, i in enumerate(range(0, runs, runs_per_window)):
                members = np.sort(deal[i : i + runs_per_window])
                size = members.size * RUN - (runs * RUN - self.n if members[-1] == runs - 1 else 0)
                if start >= size:
                    start -= size
                    continue
                rows = (members[:, None] * RUN + np.arange(RUN)).reshape(-1)[:size]  # only the last run is short
                yield rows, np.random.default_rng((seed, epoch, 1 + w)).permutation(size)[start:]
                start = 0
            epoch += 1

    def take(self, n: int, seed: int | None = None) -> Batch:
        """min(n, self.n) rows in file order: the first ones, or with a seed a uniform sample without replacement."""
        if n < 1:
            raise BadInput(f"Ask for at least one token, not {n}.")
        n = min(n, self.n)
        if seed is None or n == self.n:
            rows = np.arange(n)
        else:
            rows = np.sort(np.random.default_rng(seed).choice(self.n, n, replace=False))
        index = self.index[rows]
        docs = self.store.docs.reshape(-1)[index]
        return Batch(self.read(rows), torch.from_numpy(docs.astype(np.int64)), torch.from_numpy(index.astype(np.int64)))
