"""Llama Scope, Llama Scope R1 and what llamascopium (Language-Model-SAEs, OpenMOSS) saves: one config, three eras."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.locate import Location, read_config, site_of_hook
from repro.checkpoints.plan import Options, Plan, scaled, selection, source_of, zeros
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import GLU, SAE, BatchTopK, JumpReLU, StandardUncentred, TopK

CLASSES: dict[str, type[SAE]] = {
    "relu": StandardUncentred,
    "jumprelu": JumpReLU,
    "topk": TopK,
    "batchtopk": BatchTopK,
}
_OLD = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
_NEW = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return {"act_fn", "norm_activation", "hook_point_in"} <= config.keys()


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so?"""
    return {"W_E", "W_D"} <= weights.shapes.keys()


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE; b_dec is never subtracted first. CheckpointError for other activations."""
    config, act = where.config, str(where.config.get("act_fn")).lower()
    if not config:
        raise CheckpointError(f"{weights.path} is a Llama Scope SAE without its config: put config.json beside it.")
    if act not in CLASSES or config.get("apply_decoder_bias_to_pre_encoder"):
        centred = ", b_dec subtracted before the encoder" if config.get("apply_decoder_bias_to_pre_encoder") else ""
        raise CheckpointError(f"{weights.path} has act_fn '{act}'{centred}; only {', '.join(CLASSES)} exist here.")
    names = dict(_NEW if "W_E" in weights else _OLD)
    biased = config.get("use_decoder_bias", True)
    d, m, tensors = weights.sae(names if biased else {k: v for k, v in names.items() if k != "b_dec"})
    weights.agrees(config, d_model=d, d_sae=m)
    tensors |= {} if biased else {"b_dec": zeros(d)}
    glu = bool(config.get("use_glu_encoder"))
    if glu and act in ("topk", "batchtopk"):
        raise CheckpointError(f"{weights.path} has a GLU encoder with {act}, which no variant here has.")
    cls = GLU if glu else CLASSES[act]
    if glu:
        tensors |= {"W_gate": weights.tensor("W_E_glu", d, m), "b_gate": weights.tensor("b_E_glu", m)}
    by_norm = bool(config.get("sparsity_include_decoder_norm", True))
    factor, normalisation = _factor(weights, config, d)
    if issubclass(cls, JumpReLU):
        tensors["threshold"] = _threshold(weights, config, m, tensors["W_dec"], factor, by_norm, act)
    k, threshold = selection(cls, config.get("top_k"), weights, options)
    k |= {"by_norm": by_norm} if k else {}
    if factor != 1:  # a scale that all tokens share
        for name in {"W_enc", "W_gate", "W_dec", "b_dec"} & tensors.keys():
            tensors[name] = scaled(tensors[name], 1 / factor if "dec" in name else factor)
    sae_config = cls.Config(d, m, centred=False, normalisation=normalisation, **k)
    hook, lm_name = str(config["hook_point_in"]), _language_model(where)
    site, layer = site_of_hook(hook, lm_name)
    source = source_of(where, sae_config, "llamascopium", act, site=site, layer=layer, lm_name=lm_name)
    source.extra["hook"] = hook
    return Plan(cls, sae_config, source, tensors | threshold)


def _factor(weights: Weights, config: dict[str, Any], d: int) -> tuple[float, str]:
    """(sqrt(d) / mean norm that is still to be folded into the weights, our name of what is done to each token)."""
    hook, norm = str(config["hook_point_in"]), str(config["norm_activation"])
    stored = [name for name in weights.shapes if name.startswith("dataset_average_activation_norm.")]
    weights.ignore(*stored)
    if norm in ("inference", "token-wise"):
        return 1.0, "sqrt_d_norm" if norm == "token-wise" else "none"
    name = f"dataset_average_activation_norm.{hook}"
    mean = weights.number(name) if name in stored else (config.get("dataset_average_activation_norm") or {}).get("in")
    if norm != "dataset-wise" or not mean:
        raise CheckpointError(
            f"{weights.path} normalises activations '{norm}'"
            + (" and does not say by which mean norm" if norm == "dataset-wise" else "")
            + "; only inference, token-wise, and dataset-wise with its mean norm have exact inference here."
        )
    return d**0.5 / float(mean), "none"


def _threshold(
    weights: Weights, config: dict[str, Any], m: int, atoms: Lazy, factor: float, by_norm: bool, act: str
) -> Lazy:
    """Thresholds of the scores, [m]; 0 is ReLU."""
    if act == "relu":
        return zeros(m)
    if "jump_relu_threshold" in config:  # Llama Scope: one number, which its authors multiply by the factor
        number = float(config["jump_relu_threshold"]) * factor
        return lambda: zeros(m)().fill_(number)
    name = "activation_function.log_jumprelu_threshold"
    log_threshold = weights.tensor(name if name in weights else "log_jumprelu_threshold", m)
    return lambda: log_threshold().exp_() / (atoms().norm(dim=1) if by_norm else 1.0)


def _language_model(where: Location) -> str:
    """From lm_config.json beside it, or from the layout's own folders."""
    for folder in (where.weights.parent, where.weights.parent.parent):
        if (folder / "lm_config.json").is_file():
            return str(read_config(folder / "lm_config.json").get("model_name") or "")
    path = where.weights.as_posix()
    if "R1-Distill" in path:
        return "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    return "meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in path else ""
