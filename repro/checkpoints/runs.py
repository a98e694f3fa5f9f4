"""run_of, snapshot_of, seed_of: the training run that a checkpoint is of, and the seed of that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from repro.checkpoints.locate import SNAPSHOT, read_config
from repro.checkpoints.weights import CheckpointError

_STEP = re.compile(r"(?:^|[_-])step[_-]?\d+(?:-tokens-\d+)?$")
_LEVEL = re.compile(r"(seed|k)-(\d+)")


def run_of(weights: str | Path) -> Path:
    """The folder of the run: that of its final checkpoint, without the folders and names that say the step."""
    folder = Path(weights).parent
    name = _STEP.sub("", folder.name)
    folder = folder.with_name(name) if name else folder.parent
    if folder.name in ("checkpoints", "snapshots"):
        folder = folder.parent
    above = folder.parent.name.removesuffix("_checkpoints")
    return folder.parent.with_name(above) / folder.name if above else folder


def snapshot_of(weights: Path) -> dict[str, int]:
    """Seed and k of a snapshot in a panel, …/k-50/seed-0/snapshots/step-122070-tokens-500000000/; {} for other layouts.

    The layout of decoderesearch/sae-snapshot-panels, whose configs, of SAEs for inference, say neither. Only where the
    folders `snapshots` and step-…-tokens-… are both there do the two folders above them count.
    """
    folder = weights.parent
    if not SNAPSHOT.fullmatch(folder.name) or folder.parent.name != "snapshots":
        return {}
    run = folder.parent.parent
    levels = (_LEVEL.fullmatch(level.name) for level in (run, run.parent))
    return {match[1]: int(match[2]) for match in levels if match}


def seed_of(weights: Path, trainer: Any) -> int | None:
    """The seed of training by SAELens's runner config or a trainer's, else by the layout; None where none says it."""
    runners = [_config(folder / "runner_cfg.json") for folder in (weights.parent, run_of(weights))]
    configs = [*runners, trainer if isinstance(trainer, dict) else {}, snapshot_of(weights)]
    seeds = (config.get("seed") for config in configs)
    return next((seed for seed in seeds if isinstance(seed, int) and not isinstance(seed, bool)), None)


def _config(file: Path) -> dict[str, Any]:
    """What a config says; nothing where it is missing or damaged, because the SAE can be read without it."""
    try:
        return read_config(file) if file.is_file() else {}
    except CheckpointError:
        return {}
