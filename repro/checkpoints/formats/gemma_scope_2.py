"""Gemma Scope 2 (2025): resid_post/layer_L_width_W_l0_N/params.safetensors with lower-case names, JumpReLU."""

from __future__ import annotations

import re
from typing import Any

from repro.checkpoints.locate import Location, site_of_hook
from repro.checkpoints.plan import Options, Plan, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import JumpReLU

_FOLDERS = {"resid_post": "resid_post", "attn_out": "hook_z", "mlp_out": "mlp_out"}  # attn_out: before W_O


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return "hf_hook_point_in" in config


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so?"""
    return {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """JumpReLU on raw activations, b_dec not subtracted. Site and layer from the config, else from the path.

    CheckpointError for another architecture, and for a path that names a transcoder: without a config they look alike.
    """
    config, path = where.config, weights.path.as_posix()
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise CheckpointError(f"{path} has the architecture '{config['architecture']}'; only jump_relu is known here.")
    if kind := re.search(r"/(transcoder|clt|crosscoder)", path):
        raise CheckpointError(
            f"{path} is a {kind[1]} of Gemma Scope 2: it predicts another activation than the one it reads, so no "
            "inference here applies to it. SAEs are in the folders resid_post, attn_out and mlp_out."
        )
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    d, m, tensors = weights.sae(names)
    weights.agrees(config, width=m)
    hook, lm_name = str(config.get("hf_hook_point_in") or ""), _language_model(config, path)
    folder = re.search(rf"/({'|'.join(_FOLDERS)})(?:_all)?/layer_\d+", path)
    site, layer = site_of_hook(hook, lm_name) if hook else (_FOLDERS[folder[1]] if folder else "", where.layer)
    l0 = config.get("l0")
    known = {"site": site, "layer": layer, "lm_name": lm_name, "sparsity": None if l0 is None else float(l0)}
    source = source_of(where, JumpReLU.Config(d, m), "gemma_scope_2", "gemma_scope_2", **known)
    source.extra["hook"] = hook
    unnamed = "Neither config nor folder says what it reads (resid_post, attn_out, mlp_out; transcoders look alike)."
    return Plan(JumpReLU, JumpReLU.Config(d, m), source, tensors, notes=[] if site else [unnamed])


def _language_model(config: dict[str, Any], path: str) -> str:
    """The hub id of the model that the config (gemma-v3-270m-pt) or the repository (gemma-scope-2-270m-pt) names."""
    match = re.search(r"gemma-(?:v3|3|scope-2)-(\w+)-(pt|it)", str(config.get("model_name") or "") or path)
    if match is None:
        return ""
    size, tuned = match.groups()
    return f"google/gemma-3-{size}" + ("" if (size, tuned) == ("270m", "pt") else f"-{tuned}")
