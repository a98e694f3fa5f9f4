"""GemmaScope (Lieberum et al. 2024): layer_L/width_W/average_l0_N/params.npz, JumpReLU without a config."""

from __future__ import annotations

import re

from repro.checkpoints.locate import Location, parse_run
from repro.checkpoints.plan import Options, Plan, scaled, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import JumpReLU


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the container and the names of the tensors say so?"""
    return weights.path.suffix == ".npz" and {"W_enc", "W_dec", "threshold"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """JumpReLU on raw activations, b_dec not subtracted; everything else stands in the path.

    The SAE of the embedding was trained on the embedding without Gemma's factor sqrt(d), and is read for activations
    with it, as the model uses them. CheckpointError for transcoders.
    """
    d, m, tensors = weights.sae({name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")})
    match = re.search(r"gemma-scope-(\d+b)-(pt|it)(?:-(res|mlp|att|transcoders))?", weights.path.as_posix())
    size, tuned, kind = match.groups() if match else ("", "", None)
    if kind == "transcoders":
        raise CheckpointError(
            f"{weights.path} is a Gemma Scope transcoder: it predicts what an MLP writes from what it reads, so no "
            "inference here applies to it. SAEs are in the repositories that end in -res, -mlp and -att."
        )
    site = {"res": "resid_post", "mlp": "mlp_out", "att": "hook_z"}.get(kind or "", "")
    notes = []
    if where.site == "embedding":
        site = "embedding"
        tensors["W_enc"] = scaled(tensors["W_enc"], d**-0.5)
        tensors["W_dec"] = scaled(tensors["W_dec"], d**0.5)
    elif not site:
        notes.append(
            "Its path does not name its repository (gemma-scope-…-res, -mlp, -att; transcoders look alike), so it is "
            "not known what it reads."
        )
    lm_name = f"google/gemma-2-{size}{'-it' if tuned == 'it' else ''}" if match else ""
    config, sparsity = JumpReLU.Config(d, m), parse_run(weights.path)["sparsity"]
    sparsity = None if sparsity is None else float(sparsity)
    source = source_of(where, config, "gemma_scope", "gemma_scope", site=site, lm_name=lm_name, sparsity=sparsity)
    return Plan(JumpReLU, config, source, tensors, notes=notes)
