"""Losses of the language model under each kind of codes, in one pass over its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.activations.language_models.loss import LossMeter, PatchedLoss
from repro.metrics.loss import loss_columns
from repro.metrics.loss import price as parts_of_losses
from repro.price.codes import Method
from repro.sae import SAE

ABLATIONS = ("mean", "zero")


def losses(meter: LossMeter, sae: SAE, methods: Mapping[str, Method], mean: Tensor) -> dict[str, dict[str, Any]]:
    """Sums over documents, by kind of codes and for both ablations: what `PatchedLoss` takes, as lists.

    mean [d]: the activations that mean ablation puts in place of all.
    """

    def reconstructions(x: Tensor) -> Iterator[Tensor]:
        guess = sae.encode_sparse(x)
        for method in methods.values():
            yield method.sae.decode(method.codes(x, guess), x).detach()
        yield mean.to(x).expand_as(x)
        yield torch.zeros_like(x)

    names = (*methods, *ABLATIONS)
    records = meter.each(reconstructions, len(names))
    return {name: {k: v.tolist() for k, v in vars(record).items()} for name, record in zip(names, records)}


def record(sums: Mapping[str, Any]) -> PatchedLoss:
    """The record of what `losses` gives for one kind of codes."""
    return PatchedLoss(**{name: np.array(values, dtype=float) for name, values in sums.items()})


def add_columns(rows: Mapping[str, dict[str, Any]], sums: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """CE, KL, loss_increase and loss_recovered_* into the rows, by name; returns the parts of CE and KL."""
    ablated = {name: record(sums[name]) for name in ABLATIONS}
    for name, row in rows.items():
        if name in sums:
            row |= loss_columns(record(sums[name]), **ablated)
    three = ("encoder", "encoder_refit", "pursuit")
    if any(name not in sums for name in three):
        return {}
    split = parts_of_losses(*(record(sums[name]) for name in three))
    return {name: split[name] for name in ("CE", "KL")}
