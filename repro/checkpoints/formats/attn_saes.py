"""attn-saes (Kissane et al. 2024, GPT-2 small): {name}.pt with {name}_cfg.json, ReLU on what the heads write."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.locate import Location, site_of_hook
from repro.checkpoints.plan import Options, Plan, source_of
from repro.checkpoints.weights import Weights
from repro.sae import Standard


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return {"act_name", "act_size", "dict_size"} <= config.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Centred ReLU. Its hook_z is all heads of a layer side by side, so d is the width of the model."""
    config = where.config
    d, m, tensors = weights.sae({name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    weights.agrees(config, act_size=d, dict_size=m)
    hook, l1 = str(config["act_name"]), config.get("l1_coeff")
    site, layer = site_of_hook(hook)
    known = {"site": site, "layer": layer, "lm_name": "gpt2", "sparsity": None if l1 is None else float(l1)}
    source = source_of(where, Standard.Config(d, m), "attn_saes", "standard", **known)
    source.extra["hook"] = hook
    return Plan(Standard, Standard.Config(d, m), source, tensors)
