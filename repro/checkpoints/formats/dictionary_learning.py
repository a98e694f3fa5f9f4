"""dictionary_learning and SAEBench: trainer_{i}/ae.pt + config.json, checkpoints/ae_{step}.pt, and the backup dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import nearest
from repro.base.files import write_atomically
from repro.checkpoints.locate import Location, as_output, parse_hook, parse_place
from repro.checkpoints.plan import Options, Plan, layer_of, scaled, selection, source_of, zeros
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, BatchTopK, Gated, JumpReLU, MatryoshkaBatchTopK, Standard, StandardUncentred, TopK

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
_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_TOP_K = {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"}
_MATRIX = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
# our name -> the library's; b_enc of Gated does not exist there
KEYS: dict[type[SAE], dict[str, str]] = {
    Standard: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    StandardUncentred: {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    TopK: _TOP_K,
    BatchTopK: _TOP_K,
    MatryoshkaBatchTopK: _MATRIX,
    Gated: {**_LINEAR, "b_dec": "decoder_bias", **{name: name for name in ("gate_bias", "mag_bias", "r_mag")}},
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
    scale, step = _unwrap_backup(weights) if "ae" in weights.other else (1.0, where.step)
    trainer: dict[str, Any] = where.config.get("trainer") or {}
    cls = _class(weights, trainer, options)
    d, m, tensors = weights.sae(KEYS[cls])
    weights.agrees(trainer, activation_dim=d, dict_size=m)
    k = _k(weights, trainer, options) if issubclass(cls.Config, TopK.Config) else None
    top_k, threshold = selection(cls, k, weights, options)
    tensors |= threshold
    if cls is Gated:
        tensors["b_enc"] = zeros(m)
    if cls is MatryoshkaBatchTopK:
        top_k["group_sizes"] = weights.integers("group_sizes")
    config = cls.Config(d, m, **top_k)
    site, layer, notes = _place(where, trainer)
    source = source_of(
        where,
        config,
        "dictionary_learning",
        TRAINERS.get(str(trainer.get("trainer_class")), (cls.name, cls))[0],
        step=step,
        layer=layer,
        site=site,
        lm_name=str(trainer.get("lm_name") or ""),
        sparsity=sparsity(trainer, top_k.get("k")),
    )
    source.extra = {"format": "dictionary_learning", "trainer": trainer}
    if scale != 1.0:
        for name in {"b_enc", "b_dec", "gate_bias", "mag_bias", "threshold"} & tensors.keys():
            tensors[name] = scaled(tensors[name], scale)
        notes.append(f"An interrupted run: biases scaled by norm_factor {scale:g}.")
    return Plan(cls, config, source, tensors, unit_atoms=bool(top_k), unit_on_load=cls is Standard, notes=notes)


def _place(where: Location, trainer: dict[str, Any]) -> tuple[str, int | None, list[str]]:
    """(site, layer, notes): trainer.layer, submodule_name, the folder, and whether the buffer read a module's input."""
    name = str(trainer.get("submodule_name") or "")
    site, block = parse_hook(name, str(trainer.get("lm_name") or "")) if name else parse_place(where.weights)
    layer, notes = layer_of(trainer.get("layer")), []
    if name and layer is not None and block not in (None, layer):
        notes = [f"Its config says layer {layer} and submodule_name {name}; layer {layer} is taken."]
    block = block if layer is None else layer
    io = (where.config.get("buffer") or {}).get("io") or "out"
    if io not in ("in", "out"):
        raise CheckpointError(f"The config of {where.weights} says buffer.io {io!r}; an SAE reads 'in' or 'out'.")
    if io == "in":
        if site in ("", "resid_post") and block:
            notes += [f"Its buffer read the input of block {block}, which is the output of block {block - 1}."]
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


def _k(weights: Weights, trainer: dict[str, Any], options: Options) -> Any:
    """k: from the config first, the file second, the user third; never guessed."""
    stored = weights.number("k") if "k" in weights else None
    configured = trainer.get("k")
    if configured is not None and stored is not None and configured != stored:
        raise CheckpointError(
            f"{weights.path} has k = {stored:g}, but its config.json says {configured!r}; they do not belong together."
        )
    k = configured if configured is not None else stored if stored is not None else options.take("k")
    if k is None:
        raise CheckpointError(
            f"{weights.path} does not say its k: put the config.json of its training run beside it, or pass k=."
        )
    return k


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
    keys = KEYS.get(cls)
    if keys is None or sae.config.normalisation != "none" or sae.centred != cls.Config.centred:
        raise CheckpointError(
            f"dictionary_learning has no class for this {sae.name} SAE ({sae.config}): save it with save_sae instead."
        )
    out = {}
    for ours, theirs in keys.items():
        tensor = getattr(sae, ours).detach().float().cpu()
        out[theirs] = (tensor.T if theirs in _LINEAR.values() else tensor).contiguous().clone()
    if isinstance(sae.config, TopK.Config):
        out["k"] = torch.tensor(sae.config.k, dtype=torch.int32)
        out["threshold"] = sae.get_buffer("threshold").detach().float().cpu().clone()
    if isinstance(sae.config, MatryoshkaBatchTopK.Config):
        out["group_sizes"] = torch.tensor(sae.config.group_sizes)
    return out


def save_dictionary_learning(
    sae: SAE,
    folder: str | Path,
    step: int | None = None,
    trainer_config: Mapping[str, Any] | None = None,
    buffer_config: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder`/ae.pt (or checkpoints/ae_{step}.pt) and config.json; `folder` is trainer_{i}.

    dictionary_learning, SAEBench and load_sae open it. trainer_config and buffer_config (steps, lr, seed, ctx_len ...)
    go into config.json under "trainer" and "buffer", beside what the SAE knows of itself: classes, sizes, k, layer,
    lm_name. Weights are written as they are, float32, in raw activation units. Returns the path of the weights.
    Raises CheckpointError for an SAE that the library has no class for (LocA, normalised inputs).
    """
    folder = Path(folder)
    state = state_dict(sae)
    path = folder / "ae.pt" if step is None else folder / "checkpoints" / f"ae_{step}.pt"

    def write(draft: Path) -> None:
        with draft.open("wb") as f:  # a file, not a path: torch.save writes a path's name into the archive
            torch.save(state, f)

    write_atomically(path, write)
    config = {"trainer": _trainer(sae, trainer_config or {}), "buffer": dict(buffer_config or {})}
    text = json.dumps(config, indent=4, default=str) + "\n"
    write_atomically(folder / "config.json", lambda draft: draft.write_text(text))
    return path


def _trainer(sae: SAE, known: Mapping[str, Any]) -> dict[str, Any]:
    """config["trainer"]: what the SAE's source and the caller say, and last the facts of this SAE."""
    source = sae.source
    trainers = {family: name for name, (family, cls) in reversed(TRAINERS.items()) if cls is type(sae)}
    trainer_class = trainers.get(source.family) or next(reversed(trainers.values()), "")
    return {
        "trainer_class": trainer_class,
        "wandb_name": trainer_class,
        "layer": source.layer,
        "lm_name": source.lm_name,
        "submodule_name": f"{source.site}_layer_{source.layer}" if source.site and source.layer is not None else None,
        **source.extra.get("trainer", {}),
        **known,
        "dict_class": next(name for name, cls in CLASSES.items() if cls is type(sae)),
        "activation_dim": sae.config.d,
        "dict_size": sae.config.m,
        **{name: getattr(sae.config, name) for name in ("k", "group_sizes") if hasattr(sae.config, name)},
    }
