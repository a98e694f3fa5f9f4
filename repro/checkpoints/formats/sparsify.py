"""sparsify (EleutherAI): {hookpoint}/cfg.json + sae.safetensors, TopK and GroupMax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.checkpoints.locate import Location, read_config, site_of_hook
from repro.checkpoints.plan import Options, Plan, selection, source_of, whole
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import SAE, Config, LocA, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so? latentsae, which began as a copy of it, writes an sae_type, and its TOPK is the same."""
    return "d_in" in config and "d_sae" not in config and bool({"expansion_factor", "num_latents"} & config.keys())


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so? No other library mixes a Linear encoder with W_dec."""
    return "encoder.weight" in weights and "W_dec" in weights


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError for skip connections and signed latents."""
    config = where.config
    if not config:
        raise CheckpointError(f"{weights.path} does not say its k: put sparsify's cfg.json beside it.")
    if config.get("skip_connection") or "W_skip" in weights:
        raise CheckpointError(
            f"{weights.path} has a skip connection, so its reconstruction is not codes times atoms and no inference "
            "here applies to it; use one trained with skip_connection=False."
        )
    if config.get("signed"):
        raise CheckpointError(f"{weights.path} has signed latents (an old option), which no variant here has.")
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    d, m, tensors = weights.sae(names)
    latents = config.get("num_latents") or d * config.get("expansion_factor", 0)
    weights.agrees({**config, "num_latents": latents}, d_in=d, num_latents=m)
    if config.get("k") is None:
        raise CheckpointError(f"The cfg.json of {weights.path} names no k; without it top-k inference is a guess.")
    k = whole(config["k"], weights.path)
    activation = config.get("activation", "topk")
    if activation == "topk":
        top_k, threshold = selection(TopK, k, weights, options)
        return _plan(TopK, TopK.Config(d, m, **top_k), where, tensors | threshold, activation)
    if activation != "groupmax":
        raise CheckpointError(f"{weights.path} uses the activation '{activation}'; only topk and groupmax exist here.")
    if m % k:
        raise CheckpointError(f"{weights.path} cannot have {k} equal groups of its {m} latents; check its cfg.json.")
    groups = {"group_sizes": (m // k,) * k, "group_ks": (1,) * k}  # k groups with one winner each, on the raw input
    return _plan(LocA, LocA.Config(d, m, **groups, centred=True, normalisation="none"), where, tensors, activation)


def _plan(cls: type[SAE], config: Config, where: Location, tensors: dict[str, Lazy], activation: str) -> Plan:
    """The folder is the name of the module whose output was read; the run's config, one folder up, names the model."""
    hook, lm_name = where.weights.parent.name, _language_model(where.weights.parent.parent)
    source = source_of(where, config, "sparsify", activation, lm_name=lm_name)
    if where.site and site_of_hook(hook) == (where.site, where.layer):
        source.site, source.layer = site_of_hook(hook, lm_name)
        source.extra["hook"] = hook
    return Plan(cls, config, source, tensors)


def _language_model(run: Path) -> str:
    """The model that a run's own config.json, one folder up, names; "" where there is none."""
    file = run / "config.json"
    config = read_config(file) if file.is_file() else {}
    return str(config.get("model") or "") if "sae" in config else ""
