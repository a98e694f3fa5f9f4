"""k-sparse probes: how well the k latents that correlate most with a label predict it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.metrics.absorption import AUX
from repro.metrics.firing import Moments

Blocks = Callable[[], Iterator[SparseCodes]]
"""Codes [n, m] as blocks of rows in order; called anew for every pass over them."""


@dataclass(frozen=True)
class Probe:
    """Result of the probes of one binary label."""

    order: Tensor
    """Latents by falling |r| with the label on the training rows, [m]."""
    r_main: float
    """Pearson r of the first of them, with its sign."""
    f1: dict[int, float]
    """F1 on the test rows by number of latents k."""
    y: np.ndarray
    """Test labels [n_test]."""
    predicted: dict[int, np.ndarray]
    """Predictions on the test rows by k: what intervals resample."""
    top: Tensor
    """max(z, 0) of the first latents of `order` on the test rows, [n_test, 1 + AUX or the largest k]."""


def norm_label(x: Tensor) -> Tensor:
    """1[‖x‖ > median ‖x‖], the label of the released code, [n]; the median averages the two middle norms."""
    return norm_label_of(x.norm(dim=1))


def norm_label_of(norms: Tensor) -> Tensor:
    """`norm_label` from the norms [n]."""
    return (norms > norms.double().quantile(0.5).to(norms.dtype)).long() if len(norms) else norms.long()


def f1_score(y: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of the positive class; 0 when nothing is predicted or present."""
    tp = float(np.sum((y == 1) & (predicted == 1)))
    wrong = float(np.sum(y != predicted))
    return 2 * tp / (2 * tp + wrong) if tp else 0.0


def probes(blocks: Blocks, ys: Sequence[Tensor], ks: Sequence[int], train: Tensor | None = None) -> list[Probe]:
    """For each label y: order latents by |r| with y, fit a class-balanced logistic regression on the first k, score F1.

    Codes [n, m] (negative values count as 0) come in blocks of rows; ys are [n] in {0, 1}. `train [n] bool` marks the
    rows that order and fit; F1 is taken on the others. Without it everything happens on all rows, as in the released
    code. Two passes: the first sums moments, the second gathers the columns of the latents that came first.
    """
    ys = [y.cpu() for y in ys]
    n = len(ys[0])
    fit = torch.ones(n, dtype=torch.bool) if train is None else train.cpu()
    test = fit if train is None else ~fit
    moments: list[Moments] = []
    for rows, block in _numbered(blocks):
        device = block.values.device
        part = block[fit[rows].to(device)]
        new = [Moments.of(part, y[rows][fit[rows]].to(device)) for y in ys]
        moments = [a + b for a, b in zip(moments, new)] if moments else new
    orders = [s.order() for s in moments]
    width = max(max(ks), 1 + AUX)
    latents = torch.cat([order[:width] for order in orders]).unique()
    columns = torch.cat([block.columns(latents).clamp(min=0).cpu() for _, block in _numbered(blocks)])
    out = []
    for y, s, order in zip(ys, moments, orders):
        top = order[:width]
        z = columns[:, torch.searchsorted(latents, top).cpu()]
        scaled = ((z - s.mean[top].cpu()) / (s.std[top].cpu() + 1e-6)).float().numpy()
        r_main = float(s.correlation()[order[0]])
        f1, predicted = _scores(scaled, y.numpy(), ks, fit.numpy(), test.numpy())
        out.append(Probe(order, r_main, f1, y[test].numpy(), predicted, z[test]))
    return out


def _numbered(blocks: Blocks) -> Iterator[tuple[slice, SparseCodes]]:
    start = 0
    for block in blocks():
        yield slice(start, start + len(block)), block
        start += len(block)


def _scores(
    z: np.ndarray, y: np.ndarray, ks: Sequence[int], fit: np.ndarray, test: np.ndarray
) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """F1 on the test rows and predictions there, by number of columns of z."""
    from sklearn.linear_model import LogisticRegression

    f1: dict[int, float] = {}
    predicted: dict[int, np.ndarray] = {}
    for k in ks:
        if len(np.unique(y[fit])) < 2:
            f1[k] = float("nan")
            continue
        model = LogisticRegression(solver="liblinear", class_weight="balanced", max_iter=1000, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(z[fit, :k], y[fit])
        predicted[k] = model.predict(z[test, :k])
        f1[k] = f1_score(y[test], predicted[k])
    return f1, predicted


def pool(codes: SparseCodes, docs: Tensor, block: int = 256) -> SparseCodes:
    """Mean of max(z, 0) over the tokens of each document, [n_docs, m]; docs [n] numbers documents 0, 1, … ."""
    n_docs = int(docs.max()) + 1 if len(docs) else 0
    parts = []
    device = codes.values.device
    docs = docs.to(device)
    by_doc = torch.argsort(docs, stable=True)
    bounds = torch.searchsorted(docs[by_doc].contiguous(), torch.arange(0, n_docs + block, block, device=device))
    counts = torch.bincount(docs, minlength=n_docs).clamp(min=1)
    for b in range((n_docs + block - 1) // block):
        rows = by_doc[bounds[b] : bounds[b + 1]]
        size = min(block, n_docs - b * block)
        pooled = torch.zeros(size * codes.m, dtype=codes.values.dtype, device=device)
        flat = (docs[rows] - b * block)[:, None] * codes.m + codes.indices[rows]
        pooled.index_add_(0, flat.flatten(), codes.values[rows].clamp(min=0).flatten())
        mean = pooled.view(size, codes.m) / counts[b * block : b * block + size, None]
        parts.append(SparseCodes.from_dense(mean))
    return SparseCodes.cat(parts) if parts else codes[:0]
