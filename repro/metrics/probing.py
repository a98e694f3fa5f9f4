"""k-sparse probes: how well the k latents that correlate most with a label predict it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.metrics.firing import Moments


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


def norm_label(x: Tensor) -> Tensor:
    """1[‖x‖ > median ‖x‖], the label of the released code, [n]; the median averages the two middle norms."""
    norms = x.norm(dim=1)
    return (norms > norms.double().quantile(0.5).to(norms.dtype)).long() if len(x) else norms.long()


def f1_score(y: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of the positive class; 0 when nothing is predicted or present."""
    tp = float(np.sum((y == 1) & (predicted == 1)))
    wrong = float(np.sum(y != predicted))
    return 2 * tp / (2 * tp + wrong) if tp else 0.0


def probe(codes: SparseCodes, y: Tensor, ks: Sequence[int], train: Tensor | None = None) -> Probe:
    """Order latents by |r| with y, fit a class-balanced logistic regression on the first k, score F1.

    codes [n, m] (negative values count as 0), y [n] in {0, 1}. `train [n] bool` marks the rows that order and
    fit; F1 is taken on the others. Without it everything happens on all rows, as in the released code.
    """
    from sklearn.linear_model import LogisticRegression

    fit_rows = torch.ones(len(codes), dtype=torch.bool) if train is None else train.cpu()
    test_rows = fit_rows if train is None else ~fit_rows
    labels = y.cpu().numpy()
    y_device = y.to(codes.values.device)
    device_rows = fit_rows.to(codes.values.device)
    moments = Moments.of(codes[device_rows], y_device[device_rows])
    order = moments.order()
    top = order[: max(ks)]
    scaled = (codes_positive(codes, top) - moments.mean[top]) / (moments.std[top] + 1e-6)
    z = scaled.float().cpu().numpy()
    f1: dict[int, float] = {}
    predicted: dict[int, np.ndarray] = {}
    for k in ks:
        if len(np.unique(labels[fit_rows.numpy()])) < 2:
            f1[k] = float("nan")
            continue
        model = LogisticRegression(solver="liblinear", class_weight="balanced", max_iter=1000, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(z[fit_rows.numpy(), :k], labels[fit_rows.numpy()])
        predicted[k] = model.predict(z[test_rows.numpy(), :k])
        f1[k] = f1_score(labels[test_rows.numpy()], predicted[k])
    return Probe(order, float(moments.correlation()[order[0]]), f1, labels[test_rows.numpy()], predicted)


def codes_positive(codes: SparseCodes, latents: Tensor) -> Tensor:
    """max(z, 0) of some latents, dense [n, len(latents)]."""
    return codes.columns(latents).clamp(min=0)


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
