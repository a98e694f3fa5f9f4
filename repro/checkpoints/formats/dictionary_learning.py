"""dictionary_learning and SAEBench: trainer_{i}/ae.pt + config.json, checkpoints/ae_{step}.pt, and the backup dict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repro.base.errors import nearest
from repro.checkpoints.locate import Location, as_output, parse_hook, parse_place
from repro.checkpoints.plan import Options, Plan, constant, scaled, whole
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, BatchTopK, Gated, JumpReLU, MatryoshkaBatchTopK, Source, Standard, StandardUncentred, TopK

CLASSES: dict[str, type[SAE]] = {
    "AutoEncoder": Standard,
    "AutoEncoderNew": StandardUncentred,
    "AutoEncoderTopK": TopK,
    "BatchTopKSAE": BatchTopK,
    "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopK,
    "GatedAutoEncoder": Gated,
    "JumpReluAutoEncoder": JumpReLU,
}
TRAINERS = {
    "StandardTrainer": ("standard", Standard),
    "StandardTrainerAprilUpdate": ("standard_new", Standard),
    "PAnnealTrainer": ("p_anneal", Standard),
    "TopKTrainer": ("top_k", TopK),
    "TrainerTopK": ("top_k", TopK),
    "BatchTopKTrainer": ("batch_top_k", BatchTopK),
    "MatryoshkaBatchTopKTrainer": ("matryoshka_batch_top_k", MatryoshkaBatchTopK),
    "GatedSAETrainer": ("gated", Gated),
    "GatedAnnealTrainer": ("gated", Gated),
    "JumpReluTrainer": ("jump_relu", JumpReLU),
}
_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}  # nn.Linear keeps the other orientation
_MATRIX = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
# our name -> the library's; b_enc of Gated does not exist there
KEYS: dict[type[SAE], dict[str, str]] = {
    Standard: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    StandardUncentred: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    TopK: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"},
    BatchTopK: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"},
    MatryoshkaBatchTopK: _MATRIX,
    Gated: {
        **_LINEAR,
        "b_dec": "decoder_bias",
        "gate_bias": "gate_bias",
        "mag_bias": "mag_bias",
        "r_mag": "r_mag",
    },
    JumpReLU: {**_MATRIX, "threshold": "threshold"},
}


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    trainer = config.get("trainer")
    return isinstance(trainer, dict) and bool({"dict_class", "trainer_class"} & trainer.keys())


def by_keys(weights: Weights, options: Options) -> bool:
    """Are these names that no other library uses? (TopK and BatchTopK share theirs: `plan` then asks which.)"""
    return "ae" in weights.other or bool(_classes_by_keys(weights))


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Decide how to build the SAE. CheckpointError if config and file disagree or something is missing."""
    if "ae" in weights.other:
        scale, step = _unwrap_backup(weights)
    else:
        scale, step = 1.0, where.step
    trainer: dict[str, Any] = where.config.get("trainer") or {}
    cls = _class(weights, trainer, options)
    keys = KEYS[cls]
    linear = keys["W_enc"] == "encoder.weight"
    rows, columns = weights.matrix(keys["W_enc"])
    d, m = (columns, rows) if linear else (rows, columns)
    weights.agrees(trainer, activation_dim=d, dict_size=m)
    shapes = {"W_enc": (m, d) if linear else (d, m), "W_dec": (d, m) if linear else (m, d), "b_dec": (d,)}
    tensors = {
        ours: weights.tensor(theirs, *shapes.get(ours, (m,)), transpose=linear and ours in _LINEAR)
        for ours, theirs in keys.items()
    }
    for name in ("b_enc", "b_dec", "gate_bias", "mag_bias", "threshold"):
        if scale != 1.0 and name in tensors:
            tensors[name] = scaled(tensors[name], scale)
    if cls is Gated:
        tensors["b_enc"] = constant(torch.zeros(m))
    extra: dict[str, Any] = {}
    if cls in (TopK, BatchTopK, MatryoshkaBatchTopK):
        extra["k"] = _k(weights, trainer, options)
        threshold = weights.number("threshold") if "threshold" in weights else -1.0
        tensors["threshold"] = constant(torch.tensor(threshold * scale if threshold >= 0 else threshold))
    if cls in (BatchTopK, MatryoshkaBatchTopK):
        extra["eval_activation"] = options.take("eval_activation") or "threshold"
    if cls is MatryoshkaBatchTopK:
        extra["group_sizes"] = weights.integers("group_sizes")
    family = TRAINERS.get(str(trainer.get("trainer_class")), (cls.name, cls))[0]
    site, layer, notes = _place(where, trainer)
    source = Source(
        family=family,
        step=step,
        layer=layer,
        site=site,
        lm_name=str(trainer.get("lm_name") or ""),
        sparsity=sparsity(trainer, extra.get("k")),
        k=extra.get("k"),
        extra={"format": "dictionary_learning", "trainer": trainer},
    )
    if scale != 1.0:
        notes.append(f"An interrupted run: biases scaled by norm_factor {scale:g}.")
    config = cls.Config(d, m, **extra)
    return Plan(cls, config, source, tensors, unit_atoms="k" in extra, unit_on_load=cls is Standard, notes=notes)


def _place(where: Location, trainer: dict[str, Any]) -> tuple[str, int | None, list[str]]:
    """(site, layer, notes): trainer.layer, submodule_name, the folder, and whether the buffer read a module's input."""
    name = str(trainer.get("submodule_name") or "")
    site, block = parse_hook(name, str(trainer.get("lm_name") or "")) if name else parse_place(where.weights)
    block = trainer["layer"] if isinstance(trainer.get("layer"), int) else block
    notes = []
    if (where.config.get("buffer") or {}).get("io") == "in":
        if site in ("", "resid_post") and block:
            notes = [f"Its buffer read the input of block {block}, which is the output of block {block - 1}."]
        inputs = {"": "resid_pre", "resid_post": "resid_pre", "mlp_out": "mlp_in", "attn_out": "attn_in"}
        site = inputs.get(site, f"input of {site}")
    return *as_output(site, block), notes


def _class(weights: Weights, trainer: dict[str, Any], options: Options) -> type[SAE]:
    name = trainer.get("dict_class")
    if name is not None:
        if name not in CLASSES:
            raise CheckpointError(
                f"dict_class '{name}' of {weights.path} is none of {', '.join(CLASSES)}{nearest(str(name), CLASSES)}."
            )
        return CLASSES[name]
    if trainer.get("trainer_class") in TRAINERS:
        return TRAINERS[trainer["trainer_class"]][1]
    fitting = {cls.name: cls for cls in _classes_by_keys(weights)}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    variant = options.take("variant")
    if variant not in fitting:
        names = " or ".join(f"variant='{name}'" for name in fitting or [cls.name for cls in CLASSES.values()])
        raise CheckpointError(
            f"{weights.path} could be one of several classes of dictionary_learning: put its config.json beside it, or "
            f"pass {names}."
        )
    return fitting[variant]


def _classes_by_keys(weights: Weights) -> list[type[SAE]]:
    """The classes that these names may belong to; none where other libraries use them as well."""
    names = set(weights.shapes)
    linear = {"encoder.weight", "decoder.weight"}
    if linear | {"r_mag", "gate_bias", "decoder_bias"} <= names:
        return [Gated]
    if {"W_enc", "group_sizes", "threshold"} <= names:
        return [MatryoshkaBatchTopK]
    if linear | {"encoder.bias", "bias"} == names:
        return [Standard]
    if linear | {"encoder.bias", "b_dec"} <= names:
        return [TopK, BatchTopK]  # in 2024 without k and threshold
    return []


def _unwrap_backup(weights: Weights) -> tuple[float, int | None]:
    """An interrupted run's ae.pt keeps biases in units of x / norm_factor; returns (norm_factor, step)."""
    inner, step = weights.other["ae"], weights.other.get("step")
    factor = weights.other.get("norm_factor")
    if "norm_factor" in weights.shapes:
        factor = weights.number("norm_factor")
    if not isinstance(inner, dict) or not isinstance(factor, float | int) or not factor > 0:
        raise CheckpointError(
            f"{weights.path} is the backup of an interrupted run without a norm_factor, so the units of its biases are "
            "unknown; finish the run, or load one of its checkpoints/ae_<step>.pt."
        )
    weights.use(inner)
    return float(factor), int(step) if isinstance(step, int) else None


def _k(weights: Weights, trainer: dict[str, Any], options: Options) -> int:
    """k: from the config first, the file second, the user third; never guessed."""
    stored = weights.number("k") if "k" in weights else None
    configured = trainer.get("k")
    if configured is not None and stored is not None and configured != stored:
        raise CheckpointError(
            f"{weights.path} has k = {stored:g}, but its config.json says {configured}; they do not belong together."
        )
    k = configured if configured is not None else stored if stored is not None else options.take("k")
    if k is None:
        raise CheckpointError(
            f"{weights.path} does not say its k: put the config.json of its training run beside it, or pass k=."
        )
    return whole(k, weights.path)


def sparsity(trainer: dict[str, Any], k: int | None) -> float | None:
    """What the run was told: k, a target L0, or an L1 coefficient."""
    for name in ("k", "target_l0", "l1_penalty", "initial_sparsity_penalty", "sparsity_penalty"):
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None if k is None else float(k)


def state_dict(sae: SAE) -> dict[str, Tensor]:
    """The library's state_dict of an SAE. CheckpointError for what the library has no class for."""
    cls = type(sae)
    standard = KEYS.get(cls)
    if standard is None or sae.config.normalisation != "none" or sae.centred != cls.Config.centred:
        raise CheckpointError(
            f"dictionary_learning has no class for this {sae.name} SAE ({sae.config}): save it with save_sae instead."
        )
    linear = standard["W_enc"] == "encoder.weight"
    out = {}
    for ours, theirs in standard.items():
        tensor = getattr(sae, ours).detach().float().cpu()
        out[theirs] = (tensor.T if linear and ours in _LINEAR else tensor).contiguous().clone()
    if hasattr(sae.config, "k"):
        out["k"] = torch.tensor(sae.config.k, dtype=torch.int32)
        out["threshold"] = sae.get_buffer("threshold").detach().float().cpu().clone()
    if cls is MatryoshkaBatchTopK:
        out["group_sizes"] = torch.tensor(sae.config.group_sizes)
    return out
