"""SAELens: cfg.json + sae_weights.safetensors, versions 3 to 6, inference and training checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from repro.base.errors import nearest
from repro.checkpoints.locate import Location, parse_hook, read_config, site_of_hook
from repro.checkpoints.plan import Options, Plan, layer_of, scaled, selection, source_of, zeros
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import SAE, AbsTopK, BatchTopK, Config, Gated, JumpReLU, MatryoshkaBatchTopK, Standard, TopK

CLASSES: dict[str, type[SAE]] = {
    "standard": Standard,
    "gated": Gated,
    "jumprelu": JumpReLU,
    "topk": TopK,
    "abstopk": AbsTopK,
    # training checkpoints only: for inference the library saves both as jumprelu
    "batchtopk": BatchTopK,
    "matryoshka_batchtopk": MatryoshkaBatchTopK,
}
NORMALISATIONS = {
    "none": "none",
    "expected_average_only_in": "none",  # one factor for all tokens, folded into the weights below
    "constant_norm_rescale": "sqrt_d_norm",
    "layer_norm": "layer_norm",
}
UNFOLDED = (
    "Trained on activations scaled to mean norm sqrt(d), and the factor is not in its files: codes are what SAELens "
    "computes for the activations it is given; pass norm_scaling_factor to fold it in."
)


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so? Old files have no `architecture`."""
    return "d_sae" in config and "d_in" in config


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError for architectures without exact inference here."""
    config = where.config
    architecture, k = _architecture(weights, config)
    cls = CLASSES[architecture]
    names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    log_threshold = cls is JumpReLU and "log_threshold" in weights  # training checkpoints before version 6.4x
    if cls is Gated:
        names |= {"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
    else:
        names["b_enc"] = "b_enc"
    if cls is JumpReLU:
        names["threshold"] = "log_threshold" if log_threshold else "threshold"
    d, m, tensors = weights.sae(names)
    weights.agrees(config, d_in=d, d_sae=m)
    if cls is Gated:
        tensors["b_enc"] = zeros(m)
    if log_threshold:
        read = tensors["threshold"]
        tensors["threshold"] = lambda: read().exp_()
    whole_k, notes = k, []
    if issubclass(cls.Config, TopK.Config):
        if k is None:
            raise CheckpointError(f"The cfg.json of {weights.path} names no k; without it top-k inference is a guess.")
        if cls is not TopK and options.eval_activation != "batch_topk" and k > 0 and not isinstance(k, bool):
            whole_k = max(1, round(k))
            if whole_k != k:
                notes.append(f"Trained with k = {k} latents a token on average; its codes need only the threshold.")
    top_k, threshold = selection(cls, whole_k, weights, options, "topk_threshold")
    tensors |= threshold
    if cls is MatryoshkaBatchTopK:
        top_k["group_sizes"] = _group_sizes(config, m)
    _ignore_unit_scale(weights, m)
    rescaled = _is_rescaled(weights, config, architecture)
    normalisation, folded = _normalisation(weights, config, options, tensors, rescaled)
    if rescaled:
        _fold_decoder_norms(tensors)
    centred = bool(config.get("apply_b_dec_to_input", True))
    sae_config = cls.Config(d, m, centred=centred, normalisation=normalisation, **top_k)
    sparsity = None if k is None else float(k)
    return described(cls, sae_config, where, architecture, tensors, sparsity, [*folded, *notes])


def described(
    cls: type[SAE],
    sae_config: Config,
    where: Location,
    architecture: str,
    tensors: dict[str, Lazy],
    sparsity: float | None,
    notes: list[str],
) -> Plan:
    """The plan with what a cfg.json says of hook, language model and training."""
    meta = {**where.config, **(where.config.get("metadata") or {})}
    hook, lm_name = str(meta.get("hook_name") or meta.get("hook_point") or ""), str(meta.get("model_name") or "")
    block = layer_of(meta.get("hook_layer", meta.get("hook_point_layer")))
    if block is not None:
        hook = hook.replace("{layer}", str(block))  # SAELens 2 and older
    named = parse_hook(hook, lm_name)[1]
    if None not in (block, named) and block != named:
        notes = [*notes, f"Its config says hook_layer {block} and hook_name {hook}; block {named} is taken."]
    site, layer = site_of_hook(hook, lm_name) if hook else (where.site, where.layer)
    if (head := meta.get("hook_head_index")) is not None:
        hook, site = f"head {head} of {hook}", f"{site}, head {head}"
    known = {"site": site, "layer": layer, "lm_name": lm_name, "sparsity": sparsity}
    source = source_of(where, sae_config, "saelens", architecture, **known)
    source.extra["hook"] = hook
    if UNFOLDED in notes:
        source.extra["mean_norm"] = sae_config.d**0.5
    return Plan(cls, sae_config, source, tensors, notes=[*notes, *processing(meta)])


def processing(meta: Mapping[str, Any]) -> list[str]:
    """Notes where the language model was changed, or not its last version, when its activations were read."""
    options = meta.get("model_from_pretrained_kwargs") or {}
    changes = [name for name in ("center_writing_weights", "fold_ln", "fold_value_biases") if options.get(name)]
    versions = [name for name in ("revision", "checkpoint_index", "checkpoint_value") if options.get(name) is not None]
    out = []
    if changes:
        out.append(
            f"Trained on a TransformerLens model with {' and '.join(changes)}: the activations of the plain model of "
            "transformers differ from those of training, so collect them with that library and those settings."
        )
    if versions:
        text = " and ".join(f"{name} {options[name]}" for name in versions)
        out.append(f"Trained on the language model at {text}: collect activations of those weights (model.revision).")
    return out


def _is_rescaled(weights: Weights, config: Mapping[str, Any], architecture: str) -> bool:
    """Are scores multiplied by the norms of the atoms? SAELens began to in version 6.14, and from then on says so."""
    told = config.get("rescale_acts_by_decoder_norm")
    if told is not None or "batchtopk" not in architecture:
        return bool(told)
    meta = config.get("metadata") or {}
    version = re.match(r"(\d+)\.(\d+)", str(meta.get("sae_lens_version")))
    if version is None:
        raise CheckpointError(
            f"The cfg.json of {weights.path} has neither rescale_acts_by_decoder_norm nor sae_lens_version, and "
            "SAELens changed the default in 6.14: add the one that holds (false before 6.14)."
        )
    return (int(version[1]), int(version[2])) >= (6, 14)


def _architecture(weights: Weights, config: dict[str, Any]) -> tuple[str, float | None]:
    """The architecture's name and k; before version 6, TopK was a standard SAE with another activation."""
    architecture = str(config.get("architecture") or "standard")
    activation = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    elif activation != ("topk" if architecture == "topk" and "activation_fn_str" in config else "relu"):
        raise CheckpointError(
            f"{weights.path} is a {architecture} SAE with the activation '{activation}', which no variant here has."
        )
    if architecture not in CLASSES:
        raise CheckpointError(
            f"{weights.path} is a SAELens '{architecture}', which is not one of {', '.join(CLASSES)}"
            f"{nearest(architecture, CLASSES)}; it has no exact inference here."
        )
    return architecture, k


def _group_sizes(config: dict[str, Any], m: int) -> tuple[int, ...]:
    """Matryoshka widths are nested prefixes there, and the last one may be left out."""
    widths = [int(w) for w in config.get("matryoshka_widths") or []]
    if not widths or widths[-1] != m:
        widths.append(m)
    return tuple(b - a for a, b in zip([0, *widths], widths, strict=False))


def _ignore_unit_scale(weights: Weights, m: int) -> None:
    """Old files carry a scaling_factor of ones; any other is a fine-tuned SAE."""
    if "scaling_factor" in weights:
        scale = weights.tensor("scaling_factor", m)()
        if not torch.allclose(scale, torch.ones(m)):
            raise CheckpointError(
                f"{weights.path} was fine-tuned with a scaling_factor per latent, which SAELens stopped reading; "
                "fold it into W_dec and save it again."
            )


def _fold_decoder_norms(tensors: dict[str, Lazy]) -> None:
    """Scores are multiplied by the atoms' norms before selection: the same as unit atoms and a longer encoder."""
    kept: dict[str, torch.Tensor] = {}

    def atoms() -> torch.Tensor:
        if "W_dec" not in kept:
            kept["W_dec"] = read["W_dec"]()
            kept["norms"] = kept["W_dec"].norm(dim=1).clamp_min(1e-8)
            kept["W_dec"].div_(kept["norms"][:, None])
        return kept["W_dec"]

    def norms() -> torch.Tensor:
        atoms()
        return kept["norms"]

    read = dict(tensors)
    tensors["W_dec"] = atoms
    tensors["W_enc"] = lambda: read["W_enc"]().mul_(norms())
    tensors["b_enc"] = lambda: read["b_enc"]().mul_(norms())


def _normalisation(
    weights: Weights, config: dict[str, Any], options: Options, tensors: dict[str, Lazy], rescaled: bool
) -> tuple[str, list[str]]:
    """Our name of the normalisation; a factor common to all tokens is folded into the weights.

    Before the norms of the atoms are: it changes them, and with them the scores and the threshold of all latents.
    """
    name = config.get("normalize_activations") or "none"
    if isinstance(name, bool):  # before version 3
        name = "expected_average_only_in"
    if name not in NORMALISATIONS:
        raise CheckpointError(
            f"{weights.path} normalises activations by '{name}', which cannot be undone from its files; "
            "save it for inference with SAELens, which folds it into the weights."
        )
    if name != "expected_average_only_in":
        return NORMALISATIONS[name], []
    factor = scaling_factor(weights, config, options)
    if factor is None:
        return "none", [UNFOLDED]
    tensors["W_enc"] = scaled(tensors["W_enc"], factor)
    for key in ("W_dec", "b_dec"):
        tensors[key] = scaled(tensors[key], 1 / factor)
    if rescaled and "topk_threshold" in weights:
        tensors["threshold"] = scaled(tensors["threshold"], 1 / factor)
    return "none", [f"Scaling of activations by {factor:g} is folded into the weights."]


def scaling_factor(weights: Weights, config: Mapping[str, Any], options: Options) -> float | None:
    """What activations were multiplied by (asked for, in the config, or in a file beside it); None if not known."""
    factors = options.take("norm_scaling_factor"), config.get("norm_scaling_factor"), _scaler(weights.path.parent)
    factor = next((f for f in factors if f is not None), None)
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise CheckpointError(f"The scaling factor of {weights.path} is {factor!r}; a positive number is needed.")
    return float(factor)


def _scaler(folder: Path) -> float | None:
    """The factor that a training checkpoint keeps beside its weights."""
    file = folder / "activation_scaler.json"
    return read_config(file).get("scaling_factor") if file.is_file() else None
