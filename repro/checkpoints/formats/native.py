"""Our own format: one safetensors file whose header holds variant, config and source; written and read here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from repro.base.errors import BadInput, nearest
from repro.base.files import write_atomically
from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, constant
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE, VARIANTS, Source

FORMAT = "repro-sae"
FORMAT_VERSION = 1


def save_sae(sae: SAE, path: str | Path) -> Path:
    """Write an SAE to `path` (x.safetensors, or a folder that gets sae.safetensors), exactly as it is in memory.

    The header carries everything that loading needs; the .json beside it is the same for people to read.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        if path.suffix in (".pt", ".npz"):
            raise BadInput(f"save_sae writes safetensors, not {path.suffix}: give a path that ends in .safetensors.")
        path = path / "sae.safetensors"
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "variant": sae.name,
        "config": asdict(sae.config),
        "source": asdict(sae.source),
    }
    header = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "sae": json.dumps(described, default=str)}
    state = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in sae.state_dict().items()}
    write_atomically(path, lambda draft: _save_file(state, draft, header))
    text = json.dumps(described, indent=1, default=str) + "\n"
    write_atomically(path.with_suffix(".json"), lambda draft: draft.write_text(text))
    return path


def _save_file(state: dict[str, Tensor], draft: Path, header: dict[str, str]) -> None:
    """save_file, but with its header's metadata in order: safetensors writes them in another one each time."""
    save_file(state, draft, metadata=header)
    with draft.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        known = json.loads(file.read(size))
        known["__metadata__"] = dict(sorted(known["__metadata__"].items()))
        text = json.dumps(known, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the header say so?"""
    return weights.metadata.get("format") == FORMAT


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Rebuild what was saved. CheckpointError for a newer format_version or an unknown variant."""
    version = weights.metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{weights.path} has format_version {version or 'none'}, and this version of repro reads up to "
            f"{FORMAT_VERSION}: update repro."
        )
    described = json.loads(weights.metadata["sae"])
    name = described["variant"]
    if name not in VARIANTS:
        raise CheckpointError(f"{weights.path} holds the variant '{name}', which is unknown{nearest(name, VARIANTS)}.")
    cls = VARIANTS[name]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in described["config"].items()}
    if "eval_activation" in values:
        values["eval_activation"] = options.take("eval_activation") or values["eval_activation"]
    try:
        config = cls.Config(**values)
    except TypeError as error:
        raise CheckpointError(
            f"{weights.path} holds a config that does not fit {name} ({error}): update repro."
        ) from None
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in cls(config).state_dict().items()}
    tensors = {k: weights.tensor(k, *shape) if shape else constant(weights.number(k)) for k, shape in shapes.items()}
    source = Source(**described["source"])
    source.extra.setdefault("format", "repro")
    return Plan(cls, config, source, tensors)
