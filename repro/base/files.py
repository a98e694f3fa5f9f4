"""Where files lie, how they are written and hashed. Standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import warnings
from collections import deque
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, disk_full

ROOT = Path(__file__).resolve().parent.parent.parent
LATER = {"digest": "unless default"}
"""Metadata of a field that was added later: at its default it leaves `digest`, and thus what is cached, as it was."""


def digest(*parts: Any) -> str:
    """Hash JSON-able values and dataclasses in 16 digits: the key of everything that is cached."""

    def plain(o: Any) -> Any:
        if not dataclasses.is_dataclass(o) or isinstance(o, type):
            return str(o)
        fields = ((f, getattr(o, f.name)) for f in dataclasses.fields(o))
        return {f.name: value for f, value in fields if f.metadata != LATER or value != f.default}

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """Hash a file, read in blocks."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomically(path: str | Path, write: Any) -> Path:
    """Call write(temporary path in the same folder), then rename it: no half-written file has a final name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.draft{path.suffix}")
    try:
        write(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as JSON, whole or not at all."""
    return write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def repo_root() -> Path:
    """The clone that holds data/, notebooks/ and book/. BadInput where this package was installed without one."""
    if not in_clone():
        raise BadInput(
            "The bundled model and text, the notebooks and the book come with a clone of the repository, not with the "
            "installed package: work in a clone (`make install`), or name a model, a text or activations of your own."
        )
    return ROOT


def in_clone() -> bool:
    """Does this package run from a clone of the repository?"""
    return (ROOT / "notebooks" / "params").is_dir()


def cache_dir() -> Path:
    """Folder of prepared data: $REPRO_CACHE, else data/cache of a clone, the user's cache, or a temporary folder.

    Of those that are not named by $REPRO_CACHE, the first that can be written to.
    """
    if named := os.environ.get("REPRO_CACHE"):
        return Path(named)
    if in_clone() and writable(ROOT / "data" / "cache"):
        return ROOT / "data" / "cache"
    return _of_user() or _temporary()


def at_home(value: Any) -> Any:
    """A config, or a value of one, with ~ in front of paths as the user's home; BadInput where there is no home.

    A shell does so for words of its command line, but not in --out-dir=~/x, nor in a file. `stage` is another host's.
    """
    if isinstance(value, str) and (value == "~" or value.startswith("~/")):
        try:
            return str(Path(value).expanduser())
        except RuntimeError:
            raise BadInput(f"There is no home folder for {value}: set HOME, or name the folder in full.") from None
    if isinstance(value, tuple):
        return tuple(at_home(v) for v in value)
    if isinstance(value, dict):
        return {k: at_home(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init and f.name != "stage"]
        return dataclasses.replace(value, **{name: at_home(getattr(value, name)) for name in names})
    return value


def writable(path: Path) -> bool:
    """May this process write at a path, or make it?"""
    return os.access(next((p for p in (path, *path.parents) if p.exists()), path), os.W_OK)


def check_writable(config: Any) -> None:
    """BadInput before any work where the folder that a config writes into cannot be made or written.

    An `output_dir` that is there is left to its command: it may hold all that is asked for.
    """
    for name in ("out_dir", "output_dir"):
        if (folder := getattr(config, name, None)) is None or (name == "output_dir" and Path(folder).is_dir()):
            continue
        path = Path(folder).absolute()
        there = next(p for p in (path, *path.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            if not disk_full(error):
                where = folder if there == path else f"{folder}, below {there}"
                raise BadInput(f"Cannot write to {where}: {error.strerror}; choose another {name}.") from None


def _of_user() -> Path | None:
    """`repro` in the user's cache folder; None where there is none."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repro"
    except RuntimeError:  # no HOME, and no entry in the list of users
        return None
    return folder if folder.is_absolute() and writable(folder) else None


def _temporary() -> Path:
    """A folder of this user alone below the system's temporary one, the same at every call."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir()) / f"repro-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != user:
        raise BadInput(f"{folder} belongs to somebody else; name a folder for prepared data in REPRO_CACHE.")
    return folder


def files_below(folder: str | Path) -> list[Path]:
    """Paths of all files below a folder, sorted; links to folders are followed (Path.rglob does not before 3.13).

    A folder that several paths lead to counts once, under its own name if that lies below `folder`; so links that lead
    back up end. A folder that may not be read is left out with a warning.
    """
    folders, links, seen, files = deque([Path(folder)]), deque[Path](), set[str](), []
    while folders or links:
        current = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            warnings.warn(f"{current} is left out: it cannot be read ({error.strerror}).", stacklevel=2)
            continue
        for entry in entries:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(Path(entry.path))
            elif entry.is_file():
                files.append(Path(entry.path))
    return sorted(files)
