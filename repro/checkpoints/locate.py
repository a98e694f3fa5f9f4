"""From a user's path to one weights file and its config; what paths say about trainer, step and sparsity."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.checkpoints.weights import CheckpointError

# names that libraries give to the weights, in the order in which a folder is searched
WEIGHT_NAMES = (
    "multi_encoder_sae.pt",
    "ae.pt",
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.npz",
    "sae.pt",
)
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")

_TRAINER = re.compile(r"(?:^|[/_-])trainer[_-]?(\d+)")
_STEP = re.compile(r"(?:(?:^|[/_-])step[_-]?|(?:^|/)checkpoints/ae_)(\d+)")
_SPARSITY = re.compile(r"(?:^|[/_-])(?:l0|sparsity|k)[_=-](\d+(?:\.\d+)?)(?=[/_.-]|$)")
_LAYER = re.compile(r"(?:^|[/_.-])(?:(?:layer|layers|blocks)[_.]|h\.)(\d+)(?=[/_.]|$)")


class StepNotFound(CheckpointError):
    """There is no checkpoint of the step that was asked for."""


@dataclass(frozen=True)
class Location:
    """One weights file, the config beside it, and what its path says."""

    weights: Path
    config: dict[str, Any] = field(default_factory=dict)
    trainer: int | None = None
    step: int | None = None
    layer: int | None = None


def parse_path(path: str | Path) -> dict[str, int | float | None]:
    """Trainer, step and sparsity as far as a path spells them out; None where it does not.

    Sparsity is only what is written as l0_40, k_40 or sparsity_40: the number of a trainer says nothing about it.
    """
    text = Path(path).as_posix()

    def last(pattern: re.Pattern[str]) -> str | None:
        found = pattern.findall(text)
        return found[-1] if found else None

    trainer, step, sparsity = last(_TRAINER), last(_STEP), last(_SPARSITY)
    return {
        "trainer": int(trainer) if trainer else None,
        "step": int(step) if step else None,
        "sparsity": None if sparsity is None else float(sparsity) if "." in sparsity else int(sparsity),
    }


def parse_layer(path: str | Path) -> int | None:
    """The layer L of .../resid_post_layer_L/..., layer_L/..., layers.L/...; None where a path has none."""
    found = _LAYER.findall(Path(path).as_posix())
    return int(found[-1]) if found else None


def locate(path: str | Path, step: int | None = None, layer: int | None = None) -> Location:
    """The weights file that `path` (a file or folder), `step` and `layer` mean. CheckpointError if none or several."""
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}; give the path of a weights file or of its folder.")
    if path.is_file():
        weights = path if step is None or parse_path(path)["step"] == step else _at_step(path.parent, step)
    else:
        weights = _in_folder(path, step, layer)
    return Location(weights, read_config(weights), **_from_path(weights))


def _from_path(weights: Path) -> dict[str, Any]:
    parsed = parse_path(weights)
    return {"trainer": parsed["trainer"], "step": parsed["step"], "layer": parse_layer(weights)}


def _in_folder(folder: Path, step: int | None, layer: int | None) -> Path:
    here = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if here is not None:
        return here if step is None or parse_path(here)["step"] == step else _at_step(folder, step)
    if step is not None and (folder / "checkpoints").is_dir():
        return _at_step(folder, step)
    below = [p for name in WEIGHT_NAMES for p in sorted(folder.rglob(name))]
    if layer is not None:
        below = [p for p in below if parse_layer(p) == layer]
    finals = [p for p in below if parse_path(p)["step"] is None]
    if step is None:  # intermediate checkpoints only when asked for
        below = finals or below
    elif len(finals) == 1:
        return _at_step(finals[0].parent, step)
    else:
        below = [p for p in below if parse_path(p)["step"] == step]
    if not below:
        lone = [p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES]
        if len(lone) == 1 and step is None:
            return lone[0]
        wanted = [f"{name} {value}" for name, value in (("layer", layer), ("step", step)) if value is not None]
        asked = f" of {' and '.join(wanted)}" if wanted else ""
        raise CheckpointError(
            f"{folder} holds no checkpoint{asked}: none of {', '.join(WEIGHT_NAMES)} lies in it or below it; "
            "give the path of the weights file itself."
        )
    if len(below) > 1:
        shown = ", ".join(str(p.relative_to(folder)) for p in below[:5]) + (", ..." if len(below) > 5 else "")
        raise CheckpointError(f"{folder} holds {len(below)} checkpoints ({shown}); give the path of one.")
    return below[0]


def _at_step(folder: Path, step: int) -> Path:
    """An intermediate checkpoint of a run: checkpoints/ae_{step}.pt, or ..._checkpoints/trainer_i_step_{step}."""
    layered = folder.parent.with_name(f"{folder.parent.name}_checkpoints")
    candidates = [
        folder / "checkpoints" / f"ae_{step}.pt",
        folder / f"ae_{step}.pt",
        layered / f"{folder.name}_step_{step}" / "ae.pt",
        folder.with_name(f"{re.sub(r'_step_[0-9]+$', '', folder.name)}_step_{step}") / "ae.pt",
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    final = folder / "ae.pt"
    if final.is_file() and (read_config(final).get("trainer") or {}).get("steps") == step:
        return final  # a run's last step is its final checkpoint
    have = [*folder.glob("checkpoints/ae_*.pt"), *layered.glob(f"{folder.name}_step_*/ae.pt")]
    steps = sorted({s for p in have if (s := parse_path(p)["step"]) is not None})
    known = f"its steps are {', '.join(map(str, steps))}" if steps else "it has none; leave step out for the final one"
    raise StepNotFound(f"{folder} has no checkpoint of step {step}: {known}.")


def read_config(weights: Path) -> dict[str, Any]:
    """The JSON config beside a weights file (config.json or cfg.json; one folder up from checkpoints/), or {}."""
    folders = [weights.parent, weights.parent.parent] if weights.parent.name == "checkpoints" else [weights.parent]
    for folder in folders:
        for name in ("config.json", "cfg.json"):
            file = folder / name
            if not file.is_file():
                continue
            try:
                config = json.loads(file.read_text())
            except ValueError as error:
                raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from None
            if not isinstance(config, dict):
                raise CheckpointError(f"{file} must hold a JSON object, not a {type(config).__name__}.")
            return config
    return {}
