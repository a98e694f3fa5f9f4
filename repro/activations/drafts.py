"""A collection while it is written: one .npy file or many shards, under hidden names until all is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from repro.activations.integrity import facts
from repro.activations.shards import MANIFEST, create, layout, map_shard, shard_name, take_space
from repro.activations.store import Files
from repro.base.errors import BadInput
from repro.base.files import write_atomically

PROGRESS = "progress.json"
MOMENTS = "moments.npy"
SHARD = re.compile(r"shard_\d+\.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def save_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    write_atomically(path, lambda draft: draft.write_text(json.dumps(value, indent=1)))


def no_room(size: float, folder: Path, reason: str | None) -> BadInput:
    """The error for a disk that is too small."""
    return BadInput(
        f"The activations take {size / 1e9:.1f} GB, which {folder} has no room for ({reason}): "
        "free space, choose another output_dir, or lower dataset.max_tokens."
    )


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """A .npy file of zeros with its disk space taken, so that a full disk is an error now and not a crash later."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with open(path, "wb") as f:
            np.lib.format.write_array_header_1_0(f, header)
            f.flush()
            take_space(f.fileno(), f.tell() + size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise no_room(size, path.parent.parent, error.strerror) from None


class OneFile:
    """acts_layer{L}.npy and the files beside it."""

    def __init__(self, output_dir: Path, name: str):
        self.folder = output_dir / f".{name}.draft"
        self.final = output_dir / f"{name}.npy"
        self.files, self.target = Files(self.folder / self.final.name), Files(self.final)

    @property
    def manifest(self) -> Path:
        """Written when everything else is complete."""
        return self.files.json

    @property
    def published(self) -> Path:
        """Where the manifest ends up."""
        return self.target.json

    def parts(self, S: int) -> list[slice]:
        """Sequences that are written together."""
        return [slice(0, S)]

    def allocate(self, shape: tuple[int, int, int]) -> None:
        """Make the arrays. Raises BadInput where they do not fit."""
        new_array(self.files.acts, np.float32, shape)
        new_array(self.files.side["norms"], np.float32, shape[:2])

    def begin(self, number: int, part: slice, d: int) -> None:
        """Make room for a part, and put in it what is known before the activations."""

    def arrays(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(activations, norms) of a part, mapped anew: pages that stay mapped would count as this process's memory."""
        return np.load(self.files.acts, mmap_mode="r+"), np.load(self.files.side["norms"], mmap_mode="r+")

    def norms(self, number: int) -> np.ndarray:
        """Norms of a part that is finished."""
        array: np.ndarray = np.load(self.files.side["norms"], mmap_mode="r")
        return array

    def finish(self, number: int) -> None:
        """A part is written."""

    def is_finished(self, number: int) -> bool:
        """Need `finish` not be called again?"""
        return True

    def entries(self, parts: int) -> dict[str, dict[str, Any]]:
        """Facts of every file, by name, of so many parts."""
        return {p.name: facts(p) for p in (self.files.acts, *self.files.side.values()) if p.is_file()}

    def publish(self) -> None:
        """Give the files their final names; the manifest goes first and comes last: no mixture looks complete."""
        self.published.unlink(missing_ok=True)
        names = read_json(self.manifest)["files"]
        for path in self.target.side.values():
            if path.name not in names:
                path.unlink(missing_ok=True)
            elif (self.folder / path.name).is_file():  # a killed run may have moved it already
                os.replace(self.folder / path.name, path)
        if self.files.acts.is_file():
            os.replace(self.files.acts, self.final)
        os.replace(self.manifest, self.published)

    def check_target(self) -> None:
        """Raises BadInput where the final name is taken by something that must not be replaced."""

    def withdraw(self) -> None:
        """Remove what is published."""
        if self.published.is_file():
            for path in (self.final, *self.target.side.values(), self.published):
                path.unlink(missing_ok=True)


class ManyFiles(OneFile):
    """acts_layer{L}/: shards of `per_shard` sequences and a manifest; each shard is finished before the next begins."""

    def __init__(self, output_dir: Path, name: str, key: str, per_shard: int):
        super().__init__(output_dir, name)
        self.final, self.inner = output_dir / name, self.folder / name
        self.key, self.per_shard = key, per_shard

    @property
    def manifest(self) -> Path:
        return self.inner / MANIFEST

    @property
    def published(self) -> Path:
        return self.final / MANIFEST

    def parts(self, S: int) -> list[slice]:
        return [slice(i, min(i + self.per_shard, S)) for i in range(0, S, self.per_shard)]

    def allocate(self, shape: tuple[int, int, int]) -> None:
        S, T, d = shape
        size, free = 4 * S * T * (d + 4), shutil.disk_usage(self.folder).free
        if size > free:
            raise no_room(size, self.folder.parent, f"{free / 1e9:.1f} GB are free")
        self.inner.mkdir()

    def begin(self, number: int, part: slice, d: int) -> None:
        side = {role: np.load(p, mmap_mode="r") for role, p in self.files.side.items() if p.is_file()}
        docs, mask = side["docs"][part], side["mask"][part]
        draft = self._draft(number)
        try:
            create(
                draft, layout(len(docs), docs.shape[1], d, "labels" in side), {"store": self.key, "shard": str(number)}
            )
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.folder.parent)) from None
        shard = map_shard(draft, "r+")
        shard["tokens"][:], shard["docs"][:], shard["mask"][:] = side["tokens"][part], docs, mask
        if "labels" in side:
            shard["labels"][:] = np.where(mask, side["labels"][docs], -1)

    def arrays(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shard = map_shard(self._draft(number), "r+")
        return shard["x"], shard["norms"]

    def norms(self, number: int) -> np.ndarray:
        return map_shard(self.inner / shard_name(number))["norms"]

    def finish(self, number: int) -> None:
        path = self.inner / shard_name(number)
        if self._draft(number).is_file():
            os.replace(self._draft(number), path)
        sequences = int(map_shard(path)["mask"].shape[0])
        save_json(self._facts(number), {**facts(path), "sequences": sequences})

    def is_finished(self, number: int) -> bool:
        return self._facts(number).is_file()

    def entries(self, parts: int) -> dict[str, dict[str, Any]]:
        return {shard_name(number): read_json(self._facts(number)) for number in range(parts)}

    def publish(self) -> None:
        self.withdraw()
        self.inner.rename(self.final)

    def check_target(self) -> None:
        if self.final.is_dir():
            foreign = {p.name for p in self.final.iterdir() if not SHARD.fullmatch(p.name)} - {MANIFEST}
            if foreign:
                raise BadInput(f"{self.final} holds {min(foreign)}, which no collection wrote; move it elsewhere.")

    def withdraw(self) -> None:
        if self.final.is_dir():
            self.check_target()
            self.published.unlink(missing_ok=True)
            for path in self.final.iterdir():
                path.unlink()
            self.final.rmdir()

    def _draft(self, number: int) -> Path:
        return self.inner / f".{shard_name(number)}"

    def _facts(self, number: int) -> Path:
        return self.folder / f"shard_{number:05d}.json"
