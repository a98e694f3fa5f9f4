"""A copy of an activation store on a disk of this host: made once, whole or not at all, found by all its workers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from repro.activations.integrity import check_files, read_manifest, sample
from repro.activations.store import Files, locate_store
from repro.base.errors import BadInput, disk_full
from repro.base.files import digest, file_sha256

COPIED = "copied.json"  # file -> bytes, sha256, sample of the copy
BUFFER = 2**24


def staged(path: str | Path, folder: str | Path) -> Path:
    """The copy of a store below `folder`, made now if this host has none; what it holds and its name are the same.

    Variables such as $TMPDIR are read on this host. The copy lies in a folder named by the hash of the store's
    manifest, which holds the sha256 of every file (of a bare .npy: by its bytes, time and a sample), under a lock, so
    that workers that come at once wait for one copy. Every byte of a new copy is compared by sha256, and one that is
    found by sizes and samples; a damaged one is made again. Nothing is ever deleted but that. Raises BadInput where
    there is no room, or the store is not what its manifest says.
    """
    from filelock import FileLock

    source, home = locate_store(Path(path)), _folder(folder)
    manifest, files = _files(source)
    target = home / f"{source.stem}-{_key(source, manifest)}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f".{target.name}.lock"):
            if not _sound(target):
                _copy(source, files, target)
    except OSError as error:
        if not disk_full(error):
            raise
        size = sum(p.stat().st_size for p in files)
        raise BadInput(
            f"{home} on {socket.gethostname()} has no room for a copy of {source} ({size / 1e9:.1f} GB): name a larger "
            "disk, or leave out --stage."
        ) from None
    return target / source.name


def _folder(folder: str | Path) -> Path:
    home = Path(os.path.expandvars(folder)).expanduser()
    if "$" in str(home):
        raise BadInput(f"{folder} names a variable that is not set on {socket.gethostname()}: name another folder.")
    return home


def _files(source: Path) -> tuple[Path | None, dict[Path, str | None]]:
    """(manifest, file -> sha256 that the manifest gives) of a store; a bare .npy is one file without either."""
    manifest, folder = Files(source).json, source.parent
    if not manifest.is_file():
        return None, {source: None}
    meta = read_manifest(manifest)
    names = [source.name, *(p.name for p in Files(source).side.values())]
    check_files(manifest, meta, folder, names, verify=False)
    return manifest, {manifest: None} | {folder / name: about["sha256"] for name, about in meta["files"].items()}


def _key(source: Path, manifest: Path | None) -> str:
    if manifest is not None:
        return file_sha256(manifest)[:16]
    about = source.stat()
    return digest(source.name, about.st_size, about.st_mtime_ns, sample(source))


def _sound(target: Path) -> bool:
    """True for a copy whose files have the sizes and samples that they had when it was made."""
    try:
        meta = json.loads((target / COPIED).read_text())
        check_files(target / COPIED, meta, target, meta["files"], verify=False)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _copy(source: Path, files: dict[Path, str | None], target: Path) -> None:
    """Copy under another name, compare, and rename; what a killed copy has left is removed first."""
    draft = target.with_name(f".{target.name}.draft")
    for old in (draft, target):
        if old.exists():
            shutil.rmtree(old)
    try:
        draft.mkdir(parents=True)
        about = {path.name: _copy_file(path, draft / path.name, sha256) for path, sha256 in files.items()}
        (draft / COPIED).write_text(json.dumps({"from": str(source), "files": about}))
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_file(path: Path, copy: Path, sha256: str | None) -> dict[str, Any]:
    digest_of_copy = hashlib.sha256()
    with open(path, "rb") as old, open(copy, "wb") as new:
        while part := old.read(BUFFER):
            digest_of_copy.update(part)
            new.write(part)
        new.flush()
        os.fsync(new.fileno())
    if sha256 not in (None, digest_of_copy.hexdigest()):
        raise BadInput(f"{path} has changed since it was collected (sha256 differs): collect again.")
    if file_sha256(copy) != digest_of_copy.hexdigest():
        raise BadInput(f"{copy} differs from {path}, of which it was just made: name a folder on another disk.")
    return {"bytes": copy.stat().st_size, "sha256": digest_of_copy.hexdigest(), "sample": sample(copy)}
