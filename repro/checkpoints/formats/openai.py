"""OpenAI's sparse_autoencoder (Gao et al. 2024, GPT-2 small): one .pt with `activation` as text beside the tensors."""

from __future__ import annotations

from typing import Any

import torch

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, constant
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import Source, Standard, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the file say so? Its activation is in it."""
    return {"pre_bias", "latent_bias"} <= weights.shapes.keys() and "activation" in weights.other


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so? Without `activation`, the library itself means ReLU."""
    return {"pre_bias", "latent_bias"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """TopK normalises each token to mean 0 and std 1, ReLU does not. CheckpointError for other activations."""
    m, d = weights.matrix("encoder.weight")
    tensors = {
        "W_enc": weights.tensor("encoder.weight", m, d, transpose=True),
        "b_enc": weights.tensor("latent_bias", m),
        "W_dec": weights.tensor("decoder.weight", d, m, transpose=True),
        "b_dec": weights.tensor("pre_bias", d),
    }
    weights.ignore("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    activation = weights.other.get("activation", "ReLU")
    state = weights.other.get("activation_state_dict") or {}
    source = Source(
        family=str(activation), layer=where.layer, site=where.site, step=where.step, extra={"format": "openai"}
    )
    if activation == "ReLU":
        return Plan(Standard, Standard.Config(d, m), source, tensors)
    if activation != "TopK" or state.get("postact_fn", "ReLU") != "ReLU" or "k" not in state:
        raise CheckpointError(
            f"{weights.path} uses the activation {activation} {dict(state)}; only ReLU, and TopK with ReLU, exist here."
        )
    source.k = int(state["k"])
    source.sparsity = float(source.k)
    tensors["threshold"] = constant(torch.tensor(-1.0))
    return Plan(TopK, TopK.Config(d, m, k=source.k, normalisation="layer_norm"), source, tensors)
