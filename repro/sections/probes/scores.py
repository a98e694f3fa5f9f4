"""Scores of probes with what they must beat: baselines, a dense ceiling; scores and intervals from counts."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from repro.evaluate.controls import random_directions
from repro.metrics.intervals import of_draws
from repro.metrics.probing import f1_score

DENSE_C = 0.03  # inverse of the ridge penalty of the dense probe, on standardised activations
SCORES = ("F1@1", "F1@2", "dF1", "absorption", "absorption_null", "excess")


def always_f1(y: np.ndarray) -> float:
    """F1 of answering yes to everything, 2p / (1 + p) for a share p of positives."""
    return f1_score(y, np.ones_like(y))


def majority_f1(y_train: np.ndarray, y_test: np.ndarray) -> float:
    """F1 of answering what most training rows are: 0 for a label that most rows do not have."""
    return always_f1(y_test) if y_train.mean() > 0.5 else 0.0


def linear_f1(features: np.ndarray, y: np.ndarray, train: np.ndarray, C: float = 1.0) -> float:
    """F1 on the other rows of the same probe as of latents: class-balanced logistic regression on z-scores [r, k]."""
    from sklearn.linear_model import LogisticRegression

    mean, std = features[train].mean(0), features[train].std(0)
    z = (features - mean) / (std + 1e-6)
    solver = "liblinear" if z.shape[1] < 10 else "lbfgs"
    model = LogisticRegression(C=C, solver=solver, class_weight="balanced", max_iter=1000, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(z[train], y[train])
    return f1_score(y[~train], model.predict(z[~train]))


def references(x: Tensor, ys: Tensor, train: Tensor, seed: int, draws: int = 5) -> dict[str, float]:
    """Scores that a label gives away without latents, mean over its classes: activations x [r, d], answers ys [C, r].

    F1_always, F1_majority: constant answers. F1_dense: a linear probe of all d coordinates, the ceiling.
    F1@1_direction, F1@2_direction: the probes of one and of two random directions, mean of `draws`.
    """
    features, fit = x.float().cpu().numpy(), train.numpy()
    directions = random_directions(2 * draws, x.shape[1], 1.0, seed, "probe directions").numpy()
    projected = features @ directions.T
    rows = []
    for y in ys.numpy():
        random = [[linear_f1(projected[:, 2 * i : 2 * i + k], y, fit) for i in range(draws)] for k in (1, 2)]
        rows.append(
            {
                "F1_always": always_f1(y[~fit]),
                "F1_majority": majority_f1(y[fit], y[~fit]),
                "F1_dense": linear_f1(features, y, fit, DENSE_C),
                "F1@1_direction": float(np.mean(random[0])),
                "F1@2_direction": float(np.mean(random[1])),
            }
        )
    return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """SCORES from counts [b, C, 7 + AUX] (`Crossed`), mean over the classes, [b]; excess = absorption − its null."""

    def f1(hits: np.ndarray, wrong: np.ndarray) -> np.ndarray:
        return np.where(hits > 0, 2 * hits / np.maximum(2 * hits + wrong, 1), 0.0)

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without positives of any class
        first, second = f1(counts[..., 0], counts[..., 1]).mean(-1), f1(counts[..., 2], counts[..., 3]).mean(-1)
        positives = counts[..., 4]
        p = counts[..., 6:] / positives[..., None]
        absorbed = np.nanmean(counts[..., 5] / positives, -1)
        null = np.nanmean((1 - p[..., 0]) * (1 - np.prod(1 - p[..., 1:], -1)), -1)
    return dict(zip(SCORES, (first, second, second - first, absorbed, null, absorbed - null), strict=True))


def with_interval(draws: dict[str, np.ndarray], documents: int) -> dict[str, float]:
    """{metric, metric_low, metric_high} from draws whose first is the estimate (`intervals.of_draws`)."""
    out: dict[str, float] = {}
    for name, (estimate, *others) in draws.items():
        low, high = of_draws(others, estimate, documents)
        out |= {name: float(estimate), f"{name}_low": low, f"{name}_high": high}
    return out


def signs(r: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """r_main, mean over classes; the share of classes whose main latent is anti-correlated with them; absorption
    without those, where an off main latent says nothing (NaN if none is left). r [C], counts [C, 7 + AUX]."""
    positive = scores(counts[None, r > 0]) if (r > 0).any() else None
    nan = float("nan")
    return {
        "r_main": float(r.mean()),
        "anticorrelated": float((r < 0).mean()),
        "absorption_positive": nan if positive is None else float(positive["absorption"][0]),
        "absorption_positive_null": nan if positive is None else float(positive["absorption_null"][0]),
    }


def random_latents(columns: Tensor, ys: Tensor, train: Tensor) -> float:
    """F1@1 of latents that nobody selected, one a class: columns [r, C] of max(z, 0); mean over classes."""
    z, fit = columns.numpy(), train.numpy()
    return float(np.mean([linear_f1(z[:, c : c + 1], y, fit) for c, y in enumerate(ys.numpy())]))


def some_latents(fired: Tensor, count: int, seed: int) -> Tensor:
    """`count` latents at random from those that fire on training rows, again and again if there are fewer."""
    live = torch.nonzero(fired.cpu() > 0)[:, 0]
    if len(live) == 0:
        live = torch.arange(len(fired))
    g = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(live), generator=g) for _ in range(-(-count // len(live)))])
    return live[order[:count]]
