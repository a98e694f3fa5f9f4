"""Check a store against its manifest: sizes and samples of every file on opening, every byte on request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.base.files import file_sha256

PIECES, PIECE = 16, 4096  # of a file, in its sample


def facts(path: Path) -> dict[str, Any]:
    """Entry of a file in a manifest: bytes, sha256, sample."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path), "sample": sample(path)}


def sample(path: Path) -> str:
    """Hash of 16 pieces of 4 KiB spread over a file, both ends included: tells files apart, reading little."""
    size, content = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as f:
        for i in range(PIECES):
            f.seek(max(0, size - PIECE) * i // (PIECES - 1))
            content.update(f.read(PIECE))
    return content.hexdigest()[:32]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store. Raises BadInput if it is not one."""
    try:
        meta = json.loads(path.read_text())
        missing = {"shape", "files", "special_ids"} - set(meta)
    except (ValueError, TypeError):
        missing = {"valid JSON"}
    if missing:
        raise BadInput(f"{path} is not the provenance of collected activations (no {', '.join(sorted(missing))}).")
    shape, files, special = meta["shape"], meta["files"], meta["special_ids"]
    names, documents = meta.get("label_names") or [], meta.get("documents", 0)
    sound = (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(n) is int and n > 0 for n in shape)
        and isinstance(files, dict)
        and all(isinstance(f, dict) and type(f.get("bytes")) is int and "sha256" in f for f in files.values())
        and isinstance(special, dict)
        and all(isinstance(ids, list) and all(type(i) is int for i in ids) for ids in special.values())
        and type(meta.get("layer")) in (int, type(None))
        and isinstance(meta.get("site", ""), str)
        and isinstance(meta.get("model") or {}, dict)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and type(documents) is int
        and 0 <= documents <= shape[0] * shape[1]
    )
    if not sound:
        raise BadInput(
            f"{path} is damaged (its shape, files, special_ids, layer, site, model, label_names or documents make no "
            "sense): collect again."
        )
    return meta


def check_files(manifest: Path, meta: dict[str, Any], folder: Path, expected: Collection[str], verify: bool) -> None:
    """Raises BadInput naming the first file that is foreign, missing, elsewhere, cut off or changed.

    expected: the names that a store of this kind may have. verify: compare every sha256 instead of the samples.
    """
    home = folder.resolve()
    for name, about in meta["files"].items():
        file = folder / name
        if name not in expected:
            raise BadInput(f"{manifest} names '{name}', which is no file of this store: collect again.")
        if file.is_symlink() and file.resolve().parent != home:
            raise BadInput(f"{file} is a link that leads out of its folder: put the file itself there.")
        if not file.is_file() or file.stat().st_size != about["bytes"]:
            raise BadInput(f"{file} is missing or cut off (its provenance says {about['bytes']} bytes): collect again.")
        if verify and file_sha256(file) != about["sha256"]:
            raise BadInput(f"{file} has changed since it was collected (sha256 differs): collect again.")
        if not verify and "sample" in about and sample(file) != about["sample"]:
            raise BadInput(f"{file} is not the file that {manifest.name} describes (another store's?): collect again.")
