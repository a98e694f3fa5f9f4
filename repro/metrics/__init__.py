"""Metrics of codes, one file each; METRICS has those that add up over tokens, `probe_metrics` F1 and absorption"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.metrics.absorption import AUX, absorption_of
from repro.metrics.firing import Firing, Moments
from repro.metrics.names import check_protocol
from repro.metrics.probing import Blocks, Probe, norm_label, norm_label_of, pool, probes
from repro.metrics.reconstruction import Reconstruction, fve
from repro.sae import SAE

METRICS: dict[str, Any] = {"reconstruction": Reconstruction, "firing": Firing}
"""Streaming metrics: frozen records of sums with `of`, +, − and value(). `of` names what it reads: x, x_hat, codes."""


def records(x: Tensor, x_hat: Tensor, codes: SparseCodes | None) -> dict[str, Any]:
    """The record of each of `METRICS` for activations x and reconstructions x_hat [n, d], and their codes if any."""
    block = {"x": x, "x_hat": x_hat, "codes": codes}
    needs = {name: inspect.signature(metric.of).parameters for name, metric in METRICS.items()}
    return {
        name: METRICS[name].of(**{key: block[key] for key in keys})
        for name, keys in needs.items()
        if codes is not None or "codes" not in keys
    }


def evaluate_codes(
    x: Tensor,
    codes: SparseCodes,
    sae: SAE,
    labels: Tensor | None = None,
    protocol: str = "corrected",
    *,
    docs: Tensor | None = None,
    train: Tensor | None = None,
    ks: Sequence[int] = (1, 2),
) -> dict[str, float]:
    """All metrics of codes z of activations x [n, d] under one protocol.

    as_released: x̂ = z @ W_dec without b_dec and with signed z; firing and probes on max(z, 0); the label is
    1[‖x‖ > median]; ordered, fitted and scored on the same tokens.
    corrected: the full decoder; `labels` are classes of tokens [n], or of documents [n_docs] when `docs [n]`
    numbers the document of each token (codes are then averaged over a document); every class against the rest,
    ordered and fitted where `train` is True, scored elsewhere, mean over classes. Without labels the released
    label is used, held out: tokens of the first half train.
    """
    if len(x) != len(codes):
        raise BadInput(f"There are {len(x)} activations but {len(codes)} codes; pass the codes of these activations.")
    released = check_protocol(protocol) == "as_released"
    x_hat = codes.decode(sae.W_dec.detach()) if released else sae.decode(codes, x).detach()
    out: dict[str, float] = {}
    for record in records(x, x_hat, codes).values():
        out |= record.value()
    if released:
        return out | probe_metrics(codes, norm_label(x), None, ks)[0]
    if labels is None:
        labels, docs = norm_label(x), None
    if docs is not None:
        codes = pool(codes, docs)
    if train is None:
        train = torch.arange(len(codes)) < len(codes) // 2
    return out | probe_metrics(codes, labels, train, ks)[0]


def probe_metrics(
    codes: SparseCodes | Blocks, labels: Tensor, train: Tensor | None, ks: Sequence[int]
) -> tuple[dict[str, float], list[Probe]]:
    """F1@k, dF1 = F1@2 − F1@1, absorption with its null and r_main: mean over the classes in `labels [n]`.

    Two classes are one binary label; more are taken one against the rest. Codes may come in blocks (`probing.Blocks`).
    """
    if isinstance(codes, SparseCodes):
        if len(labels) != len(codes):
            raise BadInput(f"There are {len(labels)} labels for {len(codes)} rows of codes; give one label a row.")
        whole = codes
        blocks: Blocks = lambda: iter((whole,))  # noqa: E731
    else:
        blocks = codes
    classes = [1] if int(labels.max()) <= 1 else sorted(int(c) for c in labels.unique())
    results = probes(blocks, [(labels == c).long() for c in classes], sorted({*ks, 1, 2}), train)
    rows = [
        {f"F1@{k}": v for k, v in p.f1.items()}
        | {"dF1": p.f1[2] - p.f1[1], "r_main": p.r_main}
        | absorption_of(p.top[torch.from_numpy(p.y == 1), : 1 + AUX] > 0)
        for p in results
    ]
    return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}, results


__all__ = [
    "METRICS",
    "Firing",
    "Moments",
    "Reconstruction",
    "evaluate_codes",
    "fve",
    "norm_label",
    "norm_label_of",
    "pool",
    "probe_metrics",
    "records",
]
