"""Probes picked and fitted anew in every resample of the documents: intervals that take no latent as given.

A probe picks a handful of hundreds of latents. Where many correlate about equally with a label, other documents pick
others, and a score moves with the pick more than with the documents that it is taken on. So each draw resamples the
documents of both halves, orders the latents and fits the probes on one half, scores them on the other, and swaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import optional
from repro.metrics.absorption import AUX
from repro.metrics.firing import correlation
from repro.metrics.probing import Blocks

if TYPE_CHECKING:
    from scipy.sparse import csc_array

LATENTS = 2048  # whose sums by document are dense at a time
ELEMENTS = 2**23  # of the columns that a block of draws looks at


def by_latent(blocks: Blocks) -> csc_array:
    """max(z, 0) of all rows, [n, m] float32, with the rows of each latent together."""
    from scipy.sparse import csc_array, csr_array

    rows: list[np.ndarray] = []
    values, latents, m = [], [], 0
    for block in blocks():
        on = (block.values > 0).cpu()
        rows.append(on.sum(1).numpy())
        values.append(block.values.cpu()[on].float().numpy())
        latents.append(block.indices.cpu()[on].numpy())
        m = block.m
    ends = np.concatenate([[0], np.concatenate(rows).cumsum()])
    return csc_array(csr_array((np.concatenate(values), np.concatenate(latents), ends), shape=(len(ends) - 1, m)))


def weights_of(number: np.ndarray, train: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each document is drawn, [1 + resamples, documents], first once each; every half keeps its size.

    number [n] is the document of each row, 0, 1, …; train [n] says which half it is in. The same seed draws the same
    documents, so that differences between codes are paired.
    """
    first = np.zeros(int(number.max()) + 1, bool)
    first[number[train]] = True
    rng = np.random.default_rng(seed)
    out = np.ones((1 + resamples, len(first)))
    for half in (first, ~first):
        size = int(half.sum())
        out[1:, half] = rng.multinomial(size, np.full(size, 1 / size), resamples)
    return out


@dataclass(frozen=True)
class Crossed:
    """Probes of C classes, picked and fitted on one half of the documents and counted on the other; both ways."""

    latents: np.ndarray
    """Main latents that each half picks, [2, C]."""
    r: np.ndarray
    """Their correlation with the class there, [2, C]."""
    counts: np.ndarray
    """[2, 1 + resamples, C, 7 + AUX], of the documents and then of resampled ones: true positives and errors with one
    latent, with two, positives, absorbed positives, positives with the main latent on, and with each relative on."""


def crossed(blocks: Blocks, ys: Tensor, docs: Tensor, train: Tensor, resamples: int, seed: int) -> Crossed:
    """Probes of the documents and of `resamples` resamples of them.

    blocks: codes of n rows; ys [C, n] answers; docs [n]; train [n] bool, all rows of a document in one half.
    Raises BadInput where numba is missing.
    """
    with optional():
        from repro.kernels.cpu import probes as kernel
    z, half = by_latent(blocks), train.numpy()
    number = np.unique(docs.numpy(), return_inverse=True)[1]
    weights = weights_of(number, half, resamples, seed)
    counts = np.zeros((2, len(weights), len(ys), 7 + AUX))
    out = Crossed(np.zeros((2, len(ys)), int), np.zeros((2, len(ys))), counts)
    for h, fit in enumerate((half, ~half)):
        seen = np.unique(number[fit])
        sums = _Sums(z[fit], np.searchsorted(seen, number[fit]), weights[:, seen])
        fitted, scored = z[fit], z[~fit]
        w_fit, w_test = (weights[:, number[side]].astype(np.float32) for side in (fit, ~fit))
        for c, y in enumerate(ys.numpy()):
            picks, r = sums.picks(y[fit])
            out.latents[h, c], out.r[h, c] = picks[0, 0], r[0]
            size = max(1, ELEMENTS // (len(y) * (1 + AUX)))
            for start in range(0, len(weights), size):
                part = slice(start, start + size)
                latents, at = np.unique(picks[part], return_inverse=True)
                ours, theirs = (side[:, latents].T.toarray() for side in (fitted, scored))
                where, out_part = at.reshape(-1, picks.shape[1]), counts[h, part, c]
                kernel.counted(ours, theirs, where, y[fit], y[~fit], w_fit[part], w_test[part], out_part)
    return out


class _Sums:
    """Sums of z and z² by document, from which every draw orders the latents for any label."""

    def __init__(self, z: csc_array, number: np.ndarray, weights: np.ndarray):
        self.z, self.number, self.weights = z, number, weights
        self.n = self._of(np.ones(len(number)))
        self.parts = [slice(a, a + LATENTS) for a in range(0, z.shape[1], LATENTS)]
        self.moments = [tuple(weights @ self._by_document(power, part) for power in (z, z**2)) for part in self.parts]

    def _of(self, values: np.ndarray) -> np.ndarray:
        return self.weights @ np.bincount(self.number, values, self.weights.shape[1])

    def _by_document(self, z: Any, part: slice, y: np.ndarray | None = None) -> np.ndarray:
        from scipy.sparse import csr_array

        rows = np.arange(len(self.number))
        values = np.ones(len(rows)) if y is None else y.astype(float)
        group = csr_array((values, (self.number, rows)), shape=(self.weights.shape[1], len(rows)))
        sums: np.ndarray = (group @ z[:, part]).toarray()
        return sums

    def picks(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The 1 + AUX latents of largest |r| with y [n] in each draw (`Moments.order`), and r of the first."""
        n, positives = (torch.from_numpy(v)[:, None] for v in (self.n, self._of(y)))
        best_r, best = np.empty((len(n), 0)), np.empty((len(n), 0), int)
        for part, (z, zz) in zip(self.parts, self.moments, strict=True):
            zy = torch.from_numpy(self.weights @ self._by_document(self.z, part, y))
            r = correlation(n, torch.from_numpy(z), torch.from_numpy(zz), zy, positives).numpy().round(12)
            best_r = np.concatenate([best_r, r], 1)
            best = np.concatenate([best, np.tile(np.arange(part.start, part.start + r.shape[1]), (len(n), 1))], 1)
            top = largest(np.abs(best_r), 1 + AUX)
            best_r, best = np.take_along_axis(best_r, top, 1), np.take_along_axis(best, top, 1)
        return best, best_r[:, 0]


def largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` largest of each row of sizes [b, m] >= 0, the leftmost of equal ones; overwrites sizes."""
    top = np.empty((len(sizes), min(count, sizes.shape[1])), int)
    for j in range(top.shape[1]):
        top[:, j] = sizes.argmax(1)
        np.put_along_axis(sizes, top[:, j : j + 1], -1.0, 1)
    return top
