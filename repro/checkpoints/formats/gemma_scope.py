"""GemmaScope (Lieberum et al. 2024): layer_L/width_W/average_l0_N/params.npz, JumpReLU without a config."""

from __future__ import annotations

import re
from typing import Any

from repro.checkpoints.locate import Location, parse_path
from repro.checkpoints.plan import Options, Plan
from repro.checkpoints.weights import Weights
from repro.sae import JumpReLU, Source


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Never: these folders have none."""
    return False


def by_keys(weights: Weights, config: dict[str, Any]) -> bool:
    """Do the container and the names of the tensors say so?"""
    return weights.path.suffix == ".npz" and {"W_enc", "W_dec", "threshold"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """JumpReLU on raw activations, b_dec not subtracted; everything else stands in the path."""
    d, m = weights.matrix("W_enc")
    tensors = {
        "W_enc": weights.tensor("W_enc", d, m),
        "b_enc": weights.tensor("b_enc", m),
        "W_dec": weights.tensor("W_dec", m, d),
        "b_dec": weights.tensor("b_dec", d),
        "threshold": weights.tensor("threshold", m),
    }
    model = re.search(r"gemma-scope-(\d+b)-(pt|it)", weights.path.as_posix())
    size, tuned = model.groups() if model else ("", "")
    sparsity = parse_path(weights.path)["sparsity"]
    source = Source(
        family="gemma_scope",
        layer=where.layer,
        lm_name=f"google/gemma-2-{size}{'-it' if tuned == 'it' else ''}" if model else "",
        sparsity=None if sparsity is None else float(sparsity),
        extra={"format": "gemma_scope"},
    )
    return Plan(JumpReLU, JumpReLU.Config(d, m), source, tensors)
