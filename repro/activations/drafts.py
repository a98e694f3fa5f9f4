"""A collection while it is written: its files under hidden names until all are complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from repro.activations.integrity import facts
from repro.activations.store import Files
from repro.base.errors import BadInput
from repro.base.files import write_atomically

PROGRESS = "progress.json"
MOMENTS = "moments.npy"


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


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Write a .npy file of zeros with its disk space taken. Raises BadInput where the disk is too small.

    A full disk is an error now and not a crash later.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        with open(path, "wb") as f:
            np.lib.format.write_array_header_1_0(f, header)
            f.truncate(f.tell() + size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(f.fileno(), 0, f.tell() + size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BadInput(
            f"The activations take {size / 1e9:.1f} GB, which {path.parent.parent} has no room for ({error.strerror}): "
            "free space, choose another output_dir, or lower dataset.max_tokens."
        ) from None


class Draft:
    """acts_layer{L}.npy and the files beside it, in a hidden folder until `publish`."""

    def __init__(self, output_dir: Path, name: str):
        self.folder = output_dir / f".{name}.draft"
        self.files, self.target = Files(self.folder / f"{name}.npy"), Files(output_dir / f"{name}.npy")

    @property
    def final(self) -> Path:
        """Path of the activations after `publish`."""
        return self.target.acts

    def allocate(self, shape: tuple[int, int, int]) -> None:
        """Make the arrays of activations [S, T, d] and norms [S, T]. Raises BadInput where they do not fit."""
        new_array(self.files.acts, np.float32, shape)
        new_array(self.files.side["norms"], np.float32, shape[:2])

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(activations, norms), mapped anew: pages that stay mapped would count as this process's memory."""
        return np.load(self.files.acts, mmap_mode="r+"), np.load(self.files.side["norms"], mmap_mode="r+")

    def entries(self) -> dict[str, dict[str, Any]]:
        """File name -> bytes, sha256 and sample of each file."""
        return {p.name: facts(p) for p in (self.files.acts, *self.files.side.values()) if p.is_file()}

    def publish(self) -> None:
        """Give the files their final names; the manifest goes first and comes last: no mixture looks complete."""
        self.target.json.unlink(missing_ok=True)
        names = read_json(self.files.json)["files"]
        for path in self.target.side.values():
            if path.name not in names:
                path.unlink(missing_ok=True)
            elif (self.folder / path.name).is_file():  # a killed run may have moved it already
                os.replace(self.folder / path.name, path)
        if self.files.acts.is_file():
            os.replace(self.files.acts, self.final)
        os.replace(self.files.json, self.target.json)
