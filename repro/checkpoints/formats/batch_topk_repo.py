"""The BatchTopK and matryoshka_sae repositories (Bussmann): {name}_{step}/sae.pt + config.json with values as text."""

from __future__ import annotations

import ast
import re
from typing import Any

from repro.checkpoints.locate import Location, site_of_hook
from repro.checkpoints.plan import Options, Plan, selection, source_of, zeros
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, BatchTopK, JumpReLU, MatryoshkaBatchTopK, Standard, TopK

_LOG_THRESHOLD = "jumprelu.log_threshold"


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return "sae_type" in config and "act_size" in config


def by_keys(weights: Weights, options: Options) -> bool:
    """Only JumpReLU has a name of its own; the others need their config.json."""
    return _LOG_THRESHOLD in weights


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError for activations other than ReLU and tied weights."""
    config = {k: _value(v) for k, v in where.config.items()}
    cls = _class(weights, str(config.get("sae_type", "")))
    if config.get("activation", "relu") != "relu" or config.get("tied_weights"):
        raise CheckpointError(
            f"{weights.path} was trained with activation {config.get('activation')} and tied_weights "
            f"{config.get('tied_weights')}; only ReLU with free weights has exact inference here."
        )
    names = {name: name for name in ("W_enc", "W_dec", "b_dec", "b_enc")}
    if cls is JumpReLU:
        names["threshold"] = _LOG_THRESHOLD
        weights.ignore("threshold")
    d, m, tensors = weights.sae(names)
    if cls is JumpReLU:
        read = tensors["threshold"]
        tensors["threshold"] = lambda: read().exp_()
    elif cls is not Standard:
        if config.get("top_k") is None:
            raise CheckpointError(f"The config.json of {weights.path} names no top_k; top-k inference needs it.")
        if not config.get("use_encoder_bias", False):
            tensors["b_enc"] = zeros(m)  # the file has one, the code never adds it
    extra, threshold = selection(cls, config.get("top_k"), weights, options)
    if cls is MatryoshkaBatchTopK:
        extra["group_sizes"] = tuple(config.get("group_sizes") or ())
    normalisation = "layer_norm" if config.get("input_unit_norm") else "none"
    sae_config = cls.Config(d, m, normalisation=normalisation, **extra)
    hook, lm_name = str(config.get("hook_point") or ""), str(config.get("model_name") or "")
    known: dict[str, Any] = {} if "k" in extra else {"sparsity": config.get("l1_coeff")}
    if step := re.search(r"_(\d+)$", weights.path.parent.name):
        known["step"] = int(step.group(1))
    known["site"], known["layer"] = site_of_hook(hook, lm_name)
    source = source_of(
        where, sae_config, "batch_topk_repo", str(config.get("sae_type") or cls.name), lm_name=lm_name, **known
    )
    source.extra |= {"config": config, "hook": hook}
    return Plan(cls, sae_config, source, tensors | threshold)


def _class(weights: Weights, sae_type: str) -> type[SAE]:
    """sae_type is free text in these repositories: topk, batchtopk, batch-topk, global-matryoshka-topk, vanilla ..."""
    text = sae_type.lower().replace("-", "").replace("_", "")
    if _LOG_THRESHOLD in weights or "jumprelu" in text:
        return JumpReLU
    for part, cls in (("matryoshka", MatryoshkaBatchTopK), ("batchtopk", BatchTopK), ("topk", TopK)):
        if part in text:
            return cls
    if text == "vanilla":
        return Standard
    raise CheckpointError(
        f"sae_type '{sae_type}' of {weights.path} is not one of vanilla, topk, batchtopk, jumprelu, matryoshka."
    )


def _value(text: Any) -> Any:
    """Values of these configs may have gone through str()."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
