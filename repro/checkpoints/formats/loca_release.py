"""The LocA folder of the paper's release: multi_encoder_sae.pt, standard_sae.pt, config.json, and the lossy ae.pt."""

from __future__ import annotations

from typing import Any

import torch

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, layer_of, selection, source_of, zeros
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import SAE, Config, LocA, StandardUncentred, TopK


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return "group_ks" in config


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so?"""
    names = set(weights.shapes)
    return (
        "encoders.0.weight" in names
        or {"W_enc", "W_dec", "group_ks", "group_sizes"} <= names
        or names in ({"W_enc", "W_dec"}, {"encoder.weight", "encoder.bias", "decoder.weight"})
    )


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide which of the files this is. CheckpointError for the released converted one, unless as_released."""
    if "encoders.0.weight" in weights:
        return _multi(weights, where)
    if "group_ks" in weights:
        return _one_file(weights, where, options)
    if set(weights.shapes) == {"W_enc", "W_dec"}:
        return _converted(weights, where, options)
    return _phase_one(weights, where, options)


def _plan(cls: type[SAE], config: Config, where: Location, family: str, tensors: dict[str, Lazy]) -> Plan:
    layer = layer_of(where.config.get("target_layer", where.config.get("layer")))
    known = {"layer": where.layer if layer is None else layer}
    lm_name = str(where.config.get("model_name") or "")
    return Plan(cls, config, source_of(where, config, "loca_release", family, lm_name=lm_name, **known), tensors)


def _multi(weights: Weights, where: Location) -> Plan:
    """Separate encoders and decoders, one pair a group: column blocks of W_enc and row blocks of W_dec here."""
    groups = sum(name.startswith("encoders.") and name.endswith(".weight") for name in weights.shapes)
    ks = where.config.get("group_ks")
    if not ks:
        raise CheckpointError(
            f"{weights.path} does not say the k of each group: put the config.json of its run beside it."
        )
    if len(ks) != groups:
        raise CheckpointError(f"{weights.path} has {groups} groups, but its config.json gives {len(ks)} group_ks.")
    sizes, parts = [], {"W_enc": [], "b_enc": [], "W_dec": []}  # type: tuple[list[int], dict[str, list[Lazy]]]
    d = weights.matrix("encoders.0.weight")[1]
    for i in range(groups):
        size = weights.matrix(f"encoders.{i}.weight")[0]
        sizes.append(size)
        parts["W_enc"].append(weights.tensor(f"encoders.{i}.weight", size, d, transpose=True))
        parts["b_enc"].append(weights.tensor(f"encoders.{i}.bias", size))
        parts["W_dec"].append(weights.tensor(f"decoders.{i}.weight", d, size, transpose=True))
    tensors = {name: _joined(reads, dim=1 if name == "W_enc" else 0) for name, reads in parts.items()}
    tensors["b_dec"] = _b_dec(weights, d)
    config = LocA.Config(d, sum(sizes), group_sizes=tuple(sizes), group_ks=tuple(int(k) for k in ks))
    return _plan(LocA, config, where, "loca", tensors)


def _b_dec(weights: Weights, d: int) -> Lazy:
    """The release has none; an SAE trained by `repro loca train --setting corrected` does."""
    return weights.tensor("b_dec", d) if "b_dec" in weights else zeros(d)


def _one_file(weights: Weights, where: Location, options: Options) -> Plan:
    """ae.pt of `repro loca convert`, which keeps biases and groups; oriented as the release's."""
    if options.take("as_released"):
        weights.ignore("b_enc", "b_dec", "group_sizes", "group_ks")
        return _converted(weights, where, options)
    d, m, tensors = weights.sae({name: name for name in ("W_enc", "b_enc", "W_dec")}, turned=True)
    tensors["b_dec"] = _b_dec(weights, d)
    config = LocA.Config(d, m, group_sizes=weights.integers("group_sizes"), group_ks=weights.integers("group_ks"))
    return _plan(LocA, config, where, "loca", tensors)


def _joined(reads: list[Lazy], dim: int) -> Lazy:
    return lambda: torch.cat([read() for read in reads], dim=dim)


def _phase_one(weights: Weights, where: Location, options: Options) -> Plan:
    """standard_sae.pt: the TopK SAE that the groups were made from."""
    k = where.config.get("global_k")
    if k is None:
        raise CheckpointError(
            f"{weights.path} does not say its k: put the config.json of its run (global_k) beside it."
        )
    d, m, tensors = weights.sae({"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"})
    tensors["b_dec"] = _b_dec(weights, d)
    top_k, threshold = selection(TopK, k, weights, options)
    config = TopK.Config(d, m, centred=False, normalisation="unit_norm", **top_k)
    return _plan(TopK, config, where, "loca_phase_one", tensors | threshold)


def _converted(weights: Weights, where: Location, options: Options) -> Plan:
    """ae.pt of the conversion script: W_enc [m, d] and W_dec [d, m], the other way round than those names mean."""
    if not options.take("as_released"):
        raise CheckpointError(
            f"{weights.path} is a converted LocA SAE without biases, groups and k: load multi_encoder_sae.pt instead, "
            "or pass as_released=True for the dense ReLU encoder that the release evaluates."
        )
    d, m, tensors = weights.sae({"W_enc": "W_enc", "W_dec": "W_dec"}, turned=True)
    tensors |= {"b_enc": zeros(m), "b_dec": zeros(d)}
    plan = _plan(StandardUncentred, StandardUncentred.Config(d, m), where, "loca_converted", tensors)
    plan.notes.append(
        "As released: a dense ReLU encoder on raw activations, which is not the LocA SAE that was trained."
    )
    return plan
