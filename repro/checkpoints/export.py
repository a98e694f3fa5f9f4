"""Write an SAE in dictionary_learning's layout, so that dictionary_learning, SAEBench and load_sae open it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from repro.base.files import write_atomically
from repro.checkpoints.formats.dictionary_learning import CLASSES, TRAINERS, state_dict
from repro.sae import SAE


def save_dictionary_learning(
    sae: SAE,
    folder: str | Path,
    step: int | None = None,
    trainer_config: Mapping[str, Any] | None = None,
    buffer_config: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder`/ae.pt (or checkpoints/ae_{step}.pt) and config.json; `folder` is trainer_{i}.

    trainer_config and buffer_config (steps, lr, seed, ctx_len ...) go into config.json under "trainer" and "buffer",
    beside what the SAE knows of itself: classes, sizes, k, layer, lm_name. Weights are written as they are, float32,
    in raw activation units. Returns the path of the weights.
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


def _trainer(sae: SAE, told: Mapping[str, Any]) -> dict[str, Any]:
    """config["trainer"]: what the SAE's source and the caller say, and last the facts of this SAE."""
    source = sae.source
    dict_class = next(name for name, cls in CLASSES.items() if cls is type(sae))
    by_family = {family: name for name, (family, cls) in reversed(TRAINERS.items()) if cls is type(sae)}
    trainer_class = by_family.get(source.family) or next((n for n, (_, c) in TRAINERS.items() if c is type(sae)), "")
    out = {
        "trainer_class": trainer_class,
        "wandb_name": trainer_class,
        "layer": source.layer,
        "lm_name": source.lm_name,
        "submodule_name": f"{source.site}_layer_{source.layer}" if source.site and source.layer is not None else None,
        **source.extra.get("trainer", {}),
        **told,
        "dict_class": dict_class,
        "activation_dim": sae.config.d,
        "dict_size": sae.config.m,
    }
    for name in ("k", "group_sizes"):
        if hasattr(sae.config, name):
            value = getattr(sae.config, name)
            out[name] = list(value) if isinstance(value, tuple) else value
    return out
