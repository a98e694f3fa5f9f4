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

from repro.metrics.absorption import AUX
from repro.metrics.firing import correlation
from repro.metrics.probing import Blocks

if TYPE_CHECKING:
    from scipy.sparse import csc_array

LATENTS = 2048  # whose sums by document are dense at a time
ELEMENTS = 2**23  # of the columns that a block of draws looks at
STEPS = 30  # of Newton's method at most; about six are taken


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
    """
    z, half = by_latent(blocks), train.numpy()
    number = np.unique(docs.numpy(), return_inverse=True)[1]
    weights = weights_of(number, half, resamples, seed)
    counts = np.zeros((2, len(weights), len(ys), 7 + AUX))
    out = Crossed(np.zeros((2, len(ys)), int), np.zeros((2, len(ys))), counts)
    for h, fit in enumerate((half, ~half)):
        seen = np.unique(number[fit])
        sums = _Sums(z[fit], np.searchsorted(seen, number[fit]), weights[:, seen])
        fitted, scored = z[fit], z[~fit]
        w_fit, w_test = (torch.from_numpy(weights[:, number[side]]).float() for side in (fit, ~fit))
        for c, y in enumerate(ys.numpy()):
            picks, r = sums.picks(y[fit])
            out.latents[h, c], out.r[h, c] = picks[0, 0], r[0]
            size = max(1, ELEMENTS // (len(y) * (1 + AUX)))
            for start in range(0, len(weights), size):
                part = slice(start, start + size)
                latents, at = np.unique(picks[part], return_inverse=True)
                ours, theirs = (torch.from_numpy(side[:, latents].toarray()).T for side in (fitted, scored))
                where = torch.from_numpy(at.reshape(-1, 1 + AUX))
                counts[h, part, c] = counted(ours, theirs, where, y[fit], y[~fit], w_fit[part], w_test[part])
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
            top = np.argsort(-np.abs(best_r), axis=1, kind="stable")[:, : 1 + AUX]
            best_r, best = np.take_along_axis(best_r, top, 1), np.take_along_axis(best, top, 1)
        return best, best_r[:, 0]


def counted(
    fitted: Tensor, scored: Tensor, at: Tensor, y_fit: np.ndarray, y_test: np.ndarray, w_fit: Tensor, w_test: Tensor
) -> np.ndarray:
    """Columns of `Crossed.counts` in each draw, [b, 7 + AUX]: fitted on some rows, counted on the others.

    fitted, scored: latents x rows of both halves; at [b, 1 + AUX]: which of the latents a draw picks; w_*: [b, rows].
    """
    out = np.zeros((len(at), 7 + AUX))
    yes = torch.from_numpy(y_test == 1)
    x, y, w = packed(fitted[at[:, :2]], torch.from_numpy(y_fit), w_fit)
    new, truth, times = packed(scored[at[:, :2]], yes, w_test)
    n, positives = w.sum(1, keepdim=True), (w * y).sum(1, keepdim=True)
    mean = torch.bmm(x, w[..., None]) / n[..., None]
    std = (torch.bmm(x * x, w[..., None]) / n[..., None] - mean**2).clamp(min=0).sqrt() + 1e-6
    x, new = (x - mean) / std, (new - mean) / std
    balanced = w * torch.where(y == 1, n / (2 * positives), n / (2 * (n - positives))).nan_to_num(0, 0, 0)
    asked = (positives > 0) & (positives < n)  # else there is nothing to fit: the answer is no
    for k in (1, 2):
        theta = logistic(x[:, :k], y, balanced)
        logit = torch.bmm(theta[:, None, :k], new[:, :k])[:, 0] + theta[:, k:]
        said = ((logit > 0) & asked) * times
        out[:, 2 * k - 2], out[:, 2 * k - 1] = (said * truth).sum(1), (said + truth * (times - 2 * said)).sum(1)
    w, on = w_test[:, yes], (scored[:, yes] > 0)[at]
    absorbed = (~on[:, 0] & on[:, 1:].any(1)).float()
    out[:, 4], out[:, 5] = w.sum(1), (w * absorbed).sum(1)
    out[:, 6:] = torch.einsum("bjn,bn->bj", on.float(), w)
    return out


def packed(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [b, k, n], answers y [n], weights w [b, n]; rows where x is 0 become one of each answer: the same sums."""
    on, y = (x != 0).any(1), y.float()
    counts = on.sum(1)
    width = int(counts.max()) + 2
    draw, row = on.nonzero(as_tuple=True)
    slot = torch.arange(len(draw)) - (counts.cumsum(0) - counts)[draw]
    new_x, new_y, new_w = torch.zeros(*x.shape[:2], width), torch.zeros(len(x), width), torch.zeros(len(x), width)
    new_x[draw, :, slot], new_y[draw, slot], new_w[draw, slot] = x[draw, :, row], y[row], w[draw, row]
    new_y[:, -1] = 1
    new_w[:, -1] = w @ y - (new_w * new_y).sum(1)
    new_w[:, -2] = w.sum(1) - new_w.sum(1)
    return new_x, new_y, new_w


def logistic(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Coefficients and intercept [b, k + 1] of b logistic regressions at once, by Newton's method.

    x [b, k, n], y [b, n] in {0, 1}, w [b, n]. Minimises Σ w·loss + ‖(coefficients, intercept)‖²/2, as scikit-learn's
    liblinear with C = 1 does. A step that raises the objective is halved.
    """
    b, k, n = x.shape
    a = torch.cat([x, torch.ones(b, 1, n)], 1)
    theta = torch.zeros(b, k + 1)
    before, worst = theta, torch.full((b,), float("inf"))
    for _ in range(STEPS):
        logit = torch.bmm(theta[:, None], a)[:, 0]
        loss = (w * (torch.nn.functional.softplus(logit) - y * logit)).sum(1) + theta.square().sum(1) / 2
        uphill = loss > worst * (1 + 1e-5)
        p = logit.sigmoid()
        gradient = torch.bmm(a, (w * (p - y))[..., None])[..., 0] + theta
        curvature = torch.bmm(a * (w * p * (1 - p))[:, None], a.transpose(1, 2)) + torch.eye(k + 1)
        step = torch.linalg.solve(curvature, gradient)
        after = torch.where(uphill[:, None], (theta + before) / 2, theta - step)
        before = torch.where(uphill[:, None], before, theta)
        worst = torch.where(uphill, worst, loss)
        moved = float((after - theta).abs().max())
        theta = after
        if moved < 1e-3:
            break
    return theta
