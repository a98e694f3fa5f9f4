"""sparsify (EleutherAI): {hookpoint}/cfg.json + sae.safetensors, TopK and GroupMax."""

from __future__ import annotations

from typing import Any

import torch

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, constant
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, LocA, Source, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return "d_in" in config and "d_sae" not in config and bool({"expansion_factor", "num_latents"} & config.keys())


def by_keys(weights: Weights, config: dict[str, Any]) -> bool:
    """Do the names of the tensors say so? No other library mixes a Linear encoder with W_dec."""
    return "encoder.weight" in weights and "W_dec" in weights


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError for transcoders and skip connections."""
    config = where.config
    if not config:
        raise CheckpointError(f"{weights.path} does not say its k: put sparsify's cfg.json beside it.")
    if config.get("skip_connection") or "W_skip" in weights:
        raise CheckpointError(
            f"{weights.path} has a skip connection, so its reconstruction is not codes times atoms and no inference "
            "here applies to it; use one trained with skip_connection=False."
        )
    if config.get("transcode"):
        raise CheckpointError(
            f"{weights.path} is a transcoder: it predicts the output of a module, not its own input; use a sparse "
            "coder trained with transcode=False."
        )
    if config.get("signed"):
        raise CheckpointError(f"{weights.path} has signed latents (an old option), which no variant here has.")
    m, d = weights.matrix("encoder.weight")
    for name, told, have in (
        ("d_in", config.get("d_in"), d),
        ("num_latents", config.get("num_latents") or d * config.get("expansion_factor", 0), m),
    ):
        if told not in (None, 0, have):
            raise CheckpointError(f"{weights.path} has {name} {have}, but its cfg.json says {told}; they do not match.")
    k = config.get("k")
    if k is None:
        raise CheckpointError(f"The cfg.json of {weights.path} names no k; without it top-k inference is a guess.")
    tensors = {
        "W_enc": weights.tensor("encoder.weight", m, d, transpose=True),
        "b_enc": weights.tensor("encoder.bias", m),
        "W_dec": weights.tensor("W_dec", m, d),
        "b_dec": weights.tensor("b_dec", d),
    }
    activation = config.get("activation", "topk")
    cls: type[SAE]
    if activation == "topk":
        cls, sae_config = TopK, TopK.Config(d, m, k=k)
        tensors["threshold"] = constant(torch.tensor(-1.0))
    elif activation == "groupmax":
        if m % k:
            raise CheckpointError(
                f"{weights.path} cannot have {k} equal groups of its {m} latents; check its cfg.json."
            )
        cls = LocA  # k groups with one winner each, on the raw input
        sae_config = LocA.Config(d, m, group_sizes=(m // k,) * k, group_ks=(1,) * k, centred=True, normalisation="none")
    else:
        raise CheckpointError(f"{weights.path} uses the activation '{activation}'; only topk and groupmax exist here.")
    source = Source(
        family=activation,
        layer=where.layer,
        sparsity=float(k),
        k=k,
        extra={"format": "sparsify", "config": config, "hookpoint": weights.path.parent.name},
    )
    return Plan(cls, sae_config, source, tensors)
