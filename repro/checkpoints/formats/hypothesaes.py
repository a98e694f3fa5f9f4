"""HypotheSAEs (Movva et al. 2025): SAE_M={m}_K={k}.pt with its config inside, TopK or BatchTopK on embeddings."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, selection, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import BatchTopK, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config, or do the names of the tensors, say so?"""
    return {"input_bias", "neuron_bias"} <= weights.shapes.keys()


def by_keys(weights: Weights, options: Options) -> bool:
    """The same without a config."""
    return by_config(weights, {})


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Centred TopK, or a threshold over all tokens with use_batch_topk; nested prefixes matter in training only."""
    config = where.config
    if "k_active_neurons" not in config:
        raise CheckpointError(f"{weights.path} has lost its config (k_active_neurons); load the file as it was saved.")
    names = {"W_enc": "encoder.weight", "b_enc": "neuron_bias", "W_dec": "decoder.weight", "b_dec": "input_bias"}
    d, m, tensors = weights.sae(names)
    weights.agrees(config, input_dim=d, m_total_neurons=m)
    cls = BatchTopK if config.get("use_batch_topk") else TopK
    top_k, threshold = selection(cls, config["k_active_neurons"], weights, options)
    weights.ignore("threshold")  # of a TopK SAE: 0, and without a use
    sae_config = cls.Config(d, m, **top_k)
    source = source_of(where, sae_config, "hypothesaes", cls.name, site="embedding of a text", layer=None)
    return Plan(cls, sae_config, source, tensors | threshold)
