"""95 % intervals over documents: a jackknife with Student's t for sums and fixed probes, draws for probes picked anew.

Tokens of a document are not independent, so the unit is the document. The intervals are about text of the same kind and
length: the share of latents that so many documents leave silent, say. `tests/test_intervals.py` measures coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from repro.metrics.absorption import AUX, absorbed
from repro.metrics.probing import Probe

PSEUDO = np.array([[1, 0, 1, 0, 1, 1], [1, 0, 0, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]], dtype=float)
"""Rows that are added to those of a label: hits and errors of the first and the second probe, is it positive, and is it
absorbed? Both probes are right and wrong twice, and two of four positives are absorbed."""


def t_half(standard_error: Any, freedom: int) -> Any:
    """Half the width of a 95 % interval of Student's t; NaN without a degree of freedom."""
    from scipy.stats import t

    return t.ppf(0.975, freedom) * standard_error if freedom > 0 else np.full_like(standard_error, np.nan)


def left_out_error(left_out: Any) -> Any:
    """The standard error of a statistic from its values without each of b blocks in turn, [b, …] -> […].

    Source: Efron & Tibshirani 1993, chapter 11 (delete-one jackknife, delete-one-group jackknife).
    """
    left_out = np.asarray(left_out, dtype=float)
    b = len(left_out)
    return np.sqrt((b - 1) / b * np.square(left_out - left_out.mean(0)).sum(0))


def left_out_half(left_out: Any) -> Any:
    """Half the width of the interval with that standard error and b − 1 degrees of freedom; NaN for one block."""
    return t_half(left_out_error(left_out), len(left_out) - 1)


def jackknife(blocks: Sequence[Any]) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)} from the records of disjoint blocks of documents, leaving out one block at a time.

    Works for any record with +, − and value(). dead_rate and dense@t are clipped to [0, 1]. NaN for one block.
    """
    total = reduce(add, blocks)
    left_out = [(total - block).value() for block in blocks] if len(blocks) > 1 else []
    out = {}
    for name, value in total.value().items():
        half = float(left_out_half([v[name] for v in left_out])) if left_out else float("nan")
        low, high = value - half, value + half
        if name == "dead_rate" or name.startswith("dense"):
            low, high = max(low, 0.0), min(high, 1.0)
        out[name] = (low, high) if half == half else (half, half)
    return out


def by_document(
    sums: Mapping[str, np.ndarray], statistic: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> dict[str, float]:
    """Statistics of sums over documents, each with its 95 % interval as <name>_low and <name>_high.

    sums: arrays [documents]. statistic: totals by name, numbers or arrays alike -> values by name. Documents are left
    out one at a time, and the interval is Student's t with documents - 1 degrees of freedom; NaN for one document.
    """
    whole = statistic({name: values.sum() for name, values in sums.items()})
    documents = len(next(iter(sums.values())))
    left_out = statistic({name: values.sum() - values for name, values in sums.items()}) if documents > 1 else {}
    out: dict[str, float] = {}
    for name, value in whole.items():
        half = float(left_out_half(left_out[name])) if documents > 1 else float("nan")
        out |= {name: float(value), f"{name}_low": float(value) - half, f"{name}_high": float(value) + half}
    return out


def of_probes(probes: Sequence[Probe], ks: tuple[int, int], docs: np.ndarray) -> dict[str, tuple[float, float]]:
    """Intervals of F1@a, F1@b, their difference dF1 and absorption, means over labels, for the probes that were fitted.

    docs [n]: the document of each test row. Documents are left out one at a time. Where all of a few documents are
    right, that shows no error at all: so each label gets a row more of four kinds (`PSEUDO`), and an interval reaches
    to its estimate. NaN for one document.
    Source: Agresti & Coull 1998, who add two successes and two failures to a share.
    """
    names = (f"F1@{ks[0]}", f"F1@{ks[1]}", "dF1", "absorption")
    usable = [p for p in probes if all(k in p.predicted for k in ks)]
    number = np.unique(docs, return_inverse=True)[1]
    documents = int(number.max()) + 1 if len(number) else 0
    if not usable or documents < 2:
        return {name: (float("nan"), float("nan")) for name in names}
    real = np.stack([_counts(p, ks, number) for p in usable], 1)
    pseudo = (np.eye(len(usable))[:, None, :, None] * PSEUDO[:, None]).reshape(-1, *real.shape[1:])
    rows = np.concatenate([real, pseudo])
    total = rows.sum(0)
    half = t_half(left_out_error(_values(total - rows)), documents - 1)
    centre, estimate = _values(total), _values(real.sum(0))
    low, high = np.fmin(centre - half, estimate).clip([0, 0, -1, 0]), np.fmax(centre + half, estimate).clip(max=1)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _counts(probe: Probe, ks: Sequence[int], docs: np.ndarray) -> np.ndarray:
    """Sums over the test rows of each document, [documents, 6]: what a row of `PSEUDO` holds."""
    yes = probe.y == 1
    by_probe = [(yes & (probe.predicted[k] == 1), probe.y != probe.predicted[k]) for k in ks]
    columns = [*by_probe[0], *by_probe[1], yes, yes & absorbed(probe.top[:, : 1 + AUX] > 0).numpy()]
    return np.stack([np.bincount(docs, column) for column in columns], 1)


def _values(counts: np.ndarray) -> np.ndarray:
    """F1 of both probes, their difference and absorption, mean over labels: counts […, labels, 6] -> […, 4]."""
    hits, wrong = counts[..., [0, 2]], counts[..., [1, 3]]
    f1 = np.where(hits > 0, 2 * hits / np.maximum(2 * hits + wrong, 1), 0.0).mean(-2)
    share = np.divide(counts[..., 5], counts[..., 4], where=counts[..., 4] > 0, out=np.zeros_like(counts[..., 5]))
    return np.concatenate([f1, f1[..., 1:] - f1[..., :1], share.mean(-1)[..., None]], -1)


def of_draws(draws: Any, estimate: float, documents: int) -> tuple[float, float]:
    """The interval of an estimate from its values on resampled documents of two halves; NaN draws are left out.

    For probes whose latents are picked anew in every draw: the pick jumps, which a jackknife takes for variance. The
    width is Student's, of the draws' standard deviation, which h documents a half make too small by √((h − 1) / h).
    """
    usable = np.asarray(draws, dtype=float)
    usable = usable[np.isfinite(usable)]
    h = documents / 2
    if len(usable) < 2 or h < 2:
        return float("nan"), float("nan")
    half = float(t_half(usable.std(ddof=1) * (h / (h - 1)) ** 0.5, documents - 2))
    return float(estimate) - half, float(estimate) + half
