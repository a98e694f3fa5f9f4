"""Qwen-Scope (2026): layer{L}.sae.pt in SAE-Res-{model}-W{width}K-L0_{k}, top-k, matrices the other way round."""

from __future__ import annotations

import re

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, selection, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import TopK

_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-([\w.-]+?)-W\d+K-L0_(\d+)")


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the file's name and the shapes say so? W_enc is [m, d] here, and [d, m] elsewhere under these names."""
    biases = weights.shapes.get("b_enc", ()) + weights.shapes.get("b_dec", ())
    return _FILE.fullmatch(weights.path.name) is not None and weights.shapes.get("W_enc") == biases


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """TopK on the residual stream, b_dec not subtracted; k and the model stand in the name of the repository.

    Its model card keeps the k largest scores whatever their sign; a negative one among them is 0 here, as in SAELens.
    CheckpointError where no folder above names the repository and no k is given.
    """
    d, m, tensors = weights.sae({name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}, turned=True)
    repository, file = _REPOSITORY.search(weights.path.as_posix()), _FILE.fullmatch(weights.path.name)
    asked = options.take("k")
    k = int(repository[2]) if repository and asked is None else asked
    if k is None:
        raise CheckpointError(
            f"{weights.path} does not say its k: keep the name of its repository (SAE-Res-…-L0_50) among its folders, "
            "or pass k=."
        )
    top_k, threshold = selection(TopK, k, weights, options)
    config = TopK.Config(d, m, centred=False, **top_k)
    lm_name, layer = f"Qwen/{repository[1]}" if repository else "", int(file[1]) if file else None
    source = source_of(where, config, "qwen_scope", "topk", site="resid_post", layer=layer, lm_name=lm_name)
    return Plan(TopK, config, source, tensors | threshold)
