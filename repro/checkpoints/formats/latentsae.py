"""latentsae (SAEs of text embeddings): {k}_{expansion}/cfg.json + sae.safetensors, sparsify's with an sae_type."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, selection, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, AbsTopK, JumpReLU, TopK

CLASSES: dict[str, type[SAE]] = {"TOPK": TopK, "MATRYOSHKA": TopK, "ABSTOPK": AbsTopK, "JUMPRELU": JumpReLU}


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return {"sae_type", "expansion_factor", "d_in"} <= config.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError for types whose inference no variant here has."""
    config, kind = where.config, str(where.config["sae_type"])
    if kind not in CLASSES or config.get("matryoshka_use_batchtopk") or config.get("use_skip"):
        skip = " with a skip connection" if config.get("use_skip") else ""
        raise CheckpointError(
            f"{weights.path} is a latentsae SAE of type {kind}{skip}, which no variant here has; read are "
            f"{', '.join(CLASSES)}."
        )
    cls = CLASSES[kind]
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    names |= {"threshold": "log_threshold"} if cls is JumpReLU else {}
    d, m, tensors = weights.sae(names)
    weights.agrees(config, d_in=d, num_latents=m)
    notes = []
    if cls is JumpReLU:
        log_threshold, most = tensors["threshold"], config.get("jumprelu_max_active") or m
        tensors["threshold"] = lambda: log_threshold().exp_()
        if most < m:
            notes.append(f"Its library keeps at most {most} latents a token; here all above their threshold count.")
    if config.get("mean_center"):  # a constant that is subtracted first and added last
        bias, mean = tensors["b_dec"], weights.tensor("input_mean", d)
        tensors["b_dec"] = lambda: bias().add_(mean())
    levels = str(config.get("matryoshka_ks") or "").split(",")
    k = int(levels[-1]) if kind == "MATRYOSHKA" and levels[-1] else config.get("k")
    top_k, threshold = selection(cls, k, weights, options)
    sae_config = cls.Config(d, m, centred=True, **top_k)
    source = source_of(where, sae_config, "latentsae", kind, site="embedding of a text", layer=None)
    return Plan(cls, sae_config, source, tensors | threshold, notes=notes)
