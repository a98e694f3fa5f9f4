"""Absorption, the paper's proxy: the main latent is off on positives while a relative is on; and its density null."""

from __future__ import annotations

import torch
from torch import Tensor

AUX = 5  # latents after the main one that may take over (released code)


def absorbed(on: Tensor) -> Tensor:
    """Rows on which the main latent is off while a relative is on: on [n, 1 + AUX] bool -> [n] bool."""
    return ~on[:, 0] & on[:, 1:].any(1)


def absorption_of(on: Tensor) -> dict[str, float]:
    """Absorption from which of the main latent and its relatives are on, [positives, 1 + AUX] bool.

    `absorption_null` is what independent latents with the same firing rates on the positives would give:
    (1 − p_main)·(1 − Π(1 − p_aux)). Where the two agree, the number says how dense the codes are and no more.
    """
    if len(on) == 0:
        return {"absorption": float("nan"), "absorption_null": float("nan")}
    p = on.double().mean(0)
    return {
        "absorption": float(absorbed(on).double().mean()),
        "absorption_null": float((1 - p[0]) * (1 - torch.prod(1 - p[1:]))),
    }
