"""OpenAI's sparse_autoencoder (Gao et al. 2024, GPT-2 small): one .pt with `activation` as text beside the tensors."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, selection, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import Config, Standard, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the file say so? Its activation is in it."""
    return {"pre_bias", "latent_bias"} <= weights.shapes.keys() and "activation" in weights.other


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so? Without `activation`, the library itself means ReLU."""
    return {"pre_bias", "latent_bias"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """TopK normalises each token to mean 0 and std 1, ReLU does not. CheckpointError for other activations."""
    names = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight", "b_dec": "pre_bias"}
    d, m, tensors = weights.sae(names)
    weights.ignore("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    activation = weights.other.get("activation", "ReLU")
    state = weights.other.get("activation_state_dict") or {}
    config: Config
    if activation == "ReLU":
        config = Standard.Config(d, m)
        return Plan(Standard, config, source_of(where, config, "openai", activation), tensors)
    if activation != "TopK" or state.get("postact_fn", "ReLU") != "ReLU" or "k" not in state:
        raise CheckpointError(
            f"{weights.path} uses the activation {activation} {dict(state)}; only ReLU, and TopK with ReLU, exist here."
        )
    top_k, threshold = selection(TopK, state["k"], weights, options)
    config = TopK.Config(d, m, **top_k, normalisation="layer_norm")
    return Plan(TopK, config, source_of(where, config, "openai", activation), tensors | threshold)
