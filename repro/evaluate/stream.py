"""Results of a pass over blocks of tokens: sums by group of documents, and codes stored on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.metrics import records
from repro.metrics.intervals import jackknife

GROUPS = 20  # of documents, for the jackknife
MEMORY = 2**25  # bytes of codes in memory; the rest goes to a temporary file
NONZEROS = 2**20  # codes that are read back at a time
PAIR = np.dtype([("latent", "<i4"), ("value", "<f4")])


class TokenSums:
    """Records of all `METRICS` for groups of neighbouring documents, fed block by block in any order."""

    def __init__(self, docs: Tensor):
        n_docs = int(docs.max()) + 1 if len(docs) else 1
        self.group = docs.cpu() * min(GROUPS, n_docs) // n_docs
        self.records: dict[int, dict[str, Any]] = {}

    def add(self, rows: slice | Tensor, x: Tensor, x_hat: Tensor, codes: SparseCodes | None) -> None:
        """Activations x and reconstructions x_hat [b, d] of some rows, and their codes where there are any."""
        group = self.group[rows]
        for g in group.unique().tolist():
            here = (group == g).to(x.device)
            new = records(x[here], x_hat[here], None if codes is None else codes[here])
            old = self.records.get(g)
            self.records[g] = new if old is None else {name: old[name] + new[name] for name in new}

    def groups(self, metric: str) -> list[Any]:
        """The records of one metric, a group of documents each."""
        return [self.records[g][metric] for g in sorted(self.records)]

    def value(self, intervals: bool = True) -> dict[str, float]:
        """Every metric's columns, with jackknife intervals `<name>_low`, `<name>_high` unless switched off."""
        out: dict[str, float] = {}
        for metric in next(iter(self.records.values())):
            groups = self.groups(metric)
            out |= reduce(add, groups).value()
            for name, (low, high) in jackknife(groups).items() if intervals else ():
                out |= {f"{name}_low": low, f"{name}_high": high}
        return out


class KeptCodes:
    """max(z, 0) of many tokens as pairs (latent, value) of 8 bytes, in memory up to 32 MiB and then in a file.

    signed: negative codes are stored too.

    The file lies where `tempfile` puts it (set TMPDIR to move it) and vanishes with the object. `keep[i:j]` reads rows
    back as SparseCodes; `blocks()` reads all of them in order.
    """

    def __init__(self, m: int, device: torch.device | str = "cpu", signed: bool = False):
        self.m, self.device, self.signed = m, device, signed
        self.file = tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115 -- closed with this object
        self.counts: list[Tensor] = []
        self.starts: np.ndarray | None = None

    def append(self, codes: SparseCodes) -> None:
        """Add rows at the end."""
        on = (codes.values != 0 if self.signed else codes.values > 0).cpu()
        pairs = np.empty(int(on.sum()), PAIR)
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

    def __getitem__(self, rows: slice) -> SparseCodes:
        start, stop, _ = rows.indices(len(self))
        offsets = self._starts()[start : stop + 1] if stop > start else np.zeros(1, np.int64)
        self.file.seek(int(offsets[0]) * PAIR.itemsize)
        pairs = np.frombuffer(self.file.read(int(offsets[-1] - offsets[0]) * PAIR.itemsize), PAIR)
        counts = np.diff(offsets)
        width = max(1, int(counts.max(initial=0)))
        row = np.repeat(np.arange(len(counts)), counts)
        slot = np.arange(len(pairs)) - (offsets[:-1] - offsets[0])[row]
        values = np.zeros((len(counts), width), np.float32)
        indices = np.zeros((len(counts), width), np.int64)
        values[row, slot], indices[row, slot] = pairs["value"], pairs["latent"]
        self.file.seek(0, 2)
        return SparseCodes(torch.from_numpy(values), torch.from_numpy(indices), self.m).to(self.device)

    def blocks(self) -> Iterator[SparseCodes]:
        """All rows in order, about `NONZEROS` nonzeros at a time."""
        starts, start = self._starts(), 0
        while start < len(self):
            stop = int(np.searchsorted(starts, starts[start] + NONZEROS, "right")) - 1
            stop = min(len(self), max(stop, start + 1), start + 8192)
            yield self[start:stop]
            start = stop
