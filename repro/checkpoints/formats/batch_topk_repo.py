"""The BatchTopK and matryoshka_sae repositories (Bussmann): {name}_{step}/sae.pt + config.json with values as text."""

from __future__ import annotations

import ast
import re
from typing import Any

import torch

from repro.checkpoints.locate import Location, site_of_hook
from repro.checkpoints.plan import Options, Plan, constant, whole, zeros
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import SAE, BatchTopK, JumpReLU, MatryoshkaBatchTopK, Source, Standard, TopK

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
    d, m = weights.matrix("W_enc")
    tensors: dict[str, Lazy] = {
        "W_enc": weights.tensor("W_enc", d, m),
        "W_dec": weights.tensor("W_dec", m, d),
        "b_dec": weights.tensor("b_dec", d),
        "b_enc": weights.tensor("b_enc", m),
    }
    extra: dict[str, Any] = {"normalisation": "layer_norm" if config.get("input_unit_norm") else "none"}
    k = config.get("top_k")
    if cls in (TopK, BatchTopK, MatryoshkaBatchTopK):
        if not config.get("use_encoder_bias", False):
            tensors["b_enc"] = zeros(m)  # the file has one, the code never adds it
        if k is None:
            raise CheckpointError(f"The config.json of {weights.path} names no top_k; top-k inference needs it.")
        extra["k"] = whole(k, weights.path)
        threshold = weights.number("threshold") if "threshold" in weights else -1.0
        tensors["threshold"] = constant(torch.tensor(threshold))
    if cls in (BatchTopK, MatryoshkaBatchTopK):
        extra["eval_activation"] = options.take("eval_activation") or "threshold"
    if cls is MatryoshkaBatchTopK:
        extra["group_sizes"] = tuple(config.get("group_sizes") or ())
    if cls is JumpReLU:
        read = weights.tensor(_LOG_THRESHOLD, m)
        tensors["threshold"] = lambda: read().exp_()
        weights.ignore("threshold")
    hook, lm_name = str(config.get("hook_point") or ""), str(config.get("model_name") or "")
    site, layer = site_of_hook(hook, lm_name)
    step = re.search(r"_(\d+)$", weights.path.parent.name)
    source = Source(
        family=str(config.get("sae_type") or cls.name),
        step=int(step.group(1)) if step else where.step,
        layer=layer,
        site=site,
        lm_name=lm_name,
        sparsity=float(k) if "k" in extra and k is not None else config.get("l1_coeff"),
        k=extra.get("k"),
        extra={"format": "batch_topk_repo", "config": config, "hook": hook},
    )
    return Plan(cls, cls.Config(d, m, **extra), source, tensors)


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
