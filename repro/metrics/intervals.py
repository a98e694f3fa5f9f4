"""95 % intervals: jackknife over blocks of documents for sums, bootstrap over documents for probes and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from repro.metrics.probing import Probe, f1_score

Z95 = 1.959964


def jackknife(blocks: Sequence[Any]) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)} from the records of disjoint blocks of documents, leaving out one block at a time.

    Works for any record with +, − and value(). dead_rate and dense@t are clipped to [0, 1]. Needs at least two blocks.
    Source: Efron & Tibshirani 1993, chapter 11 (delete-one-group jackknife).
    """
    total = reduce(add, blocks)
    whole = total.value()
    b = len(blocks)
    if b < 2:
        return {name: (float("nan"), float("nan")) for name in whole}
    left_out = [(total - block).value() for block in blocks]
    out = {}
    for name, value in whole.items():
        others = np.array([v[name] for v in left_out])
        se = float(np.sqrt((b - 1) / b * np.sum((others - others.mean()) ** 2)))
        low, high = value - Z95 * se, value + Z95 * se
        if name == "dead_rate" or name.startswith("dense"):
            low, high = max(low, 0.0), min(high, 1.0)
        out[name] = (low, high)
    return out


def by_document(
    sums: Mapping[str, np.ndarray], statistic: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> dict[str, float]:
    """Statistics of sums over documents, each with its 95 % interval as <name>_low and <name>_high.

    sums: arrays [documents]. statistic: totals by name, numbers or arrays alike -> values by name. Documents are left
    out one at a time, and the interval is Student's t with documents - 1 degrees of freedom; NaN for one document.
    Source: Efron & Tibshirani 1993, chapter 11 (delete-one jackknife).
    """
    from scipy.stats import t

    whole = statistic({name: values.sum() for name, values in sums.items()})
    documents = len(next(iter(sums.values())))
    left_out = statistic({name: values.sum() - values for name, values in sums.items()}) if documents > 1 else {}
    out: dict[str, float] = {}
    for name, value in whole.items():
        half = float("nan")
        if documents > 1:
            others = np.asarray(left_out[name], dtype=float)
            variance = (documents - 1) / documents * np.square(others - others.mean()).sum()
            half = float(t.ppf(0.975, documents - 1) * np.sqrt(variance))
        out |= {name: float(value), f"{name}_low": float(value) - half, f"{name}_high": float(value) + half}
    return out


def bootstrap_f1(
    probes: Sequence[Probe], ks: tuple[int, int], resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Intervals of F1@a, F1@b and their difference dF1, mean over labels, resampling the test documents."""
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {f"F1@{ks[0]}": [], f"F1@{ks[1]}": [], "dF1": []}
    usable = [p for p in probes if all(k in p.predicted for k in ks)]
    if not usable or resamples < 2:
        return {name: (float("nan"), float("nan")) for name in draws}
    n = len(usable[0].y)
    for _ in range(resamples):
        rows = rng.integers(0, n, n)
        first, second = (np.mean([f1_score(p.y[rows], p.predicted[k][rows]) for p in usable]) for k in ks)
        for name, value in zip(draws, (first, second, second - first), strict=True):
            draws[name].append(float(value))
    return {name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5))) for name, v in draws.items()}


def centred(draws: Any, estimate: float) -> tuple[float, float]:
    """2.5 % and 97.5 % of resampled values, moved so that their mean is the estimate; NaN draws are left out.

    A resample of documents holds fewer different documents than the text: it has more silent latents, and probes learn
    from less. That shift is no uncertainty, and without its removal an interval may miss its own estimate. Where nearly
    all draws are equal, their mean may lie outside of the percentiles: the interval reaches to the estimate.
    Source: Efron & Tibshirani 1993, chapter 10 (bootstrap estimate of bias).
    """
    usable = np.asarray(draws, dtype=float)
    usable = usable[np.isfinite(usable)]
    if len(usable) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(usable, [2.5, 97.5]) - usable.mean() + estimate
    return min(float(low), float(estimate)), max(float(high), float(estimate))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share out of n independent cases."""
    if n == 0 or not np.isfinite(share):
        return float("nan"), float("nan")
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
