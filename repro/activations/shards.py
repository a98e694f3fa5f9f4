"""Activations in many safetensors files: the layout of a shard, and rows by position out of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from repro.base.errors import BadInput

MANIFEST = "manifest.json"  # its presence says that every shard is complete
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "BOOL": np.dtype("?"),
}

Layout = dict[str, tuple[str, tuple[int, ...]]]


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard_{number:05d}.safetensors"


def layout(sequences: int, T: int, d: int, labelled: bool) -> Layout:
    """Array -> (type, shape) of a shard, widest type first so that each is aligned.

    x activations, norms their lengths, tokens ids, docs document numbers (-1 at padding), labels the class of each
    token's document (-1 at padding), mask True at real tokens.
    """
    at = (sequences, T)
    arrays: Layout = {"x": ("F32", (*at, d)), "norms": ("F32", at), "tokens": ("I32", at), "docs": ("I32", at)}
    if labelled:
        arrays["labels"] = ("I16", at)
    return arrays | {"mask": ("BOOL", at)}


def create(path: Path, arrays: Layout, about: Mapping[str, str]) -> None:
    """A safetensors file of zeros with its disk space taken. Raises OSError where there is no room."""
    header: dict[str, object] = {"__metadata__": dict(about)}
    end = 0
    for name, (kind, shape) in arrays.items():
        start, end = end, end + prod(shape) * TYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        take_space(f.fileno(), 8 + len(text) + end)


def take_space(file: int, size: int) -> None:
    """Grow an open file to `size` bytes of zeros that have their place on the disk, so that no later write can fail."""
    os.truncate(file, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


def read_header(path: Path) -> tuple[Layout, dict[str, tuple[int, int]], dict[str, str]]:
    """(layout, array -> its bytes in the file, metadata) of a shard. Raises BadInput if it is none, or cut off."""
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            size = path.stat().st_size
            if not 2 <= length <= size - 8:
                raise ValueError("no header")
            header = json.loads(f.read(length))
        about = header.pop("__metadata__", {})
        arrays = {name: (str(a["dtype"]), tuple(map(int, a["shape"]))) for name, a in header.items()}
        places = {
            n: (8 + length + int(a["data_offsets"][0]), 8 + length + int(a["data_offsets"][1]))
            for n, a in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise BadInput(f"{path} is not a complete safetensors file: collect again.") from None
    for name, (kind, shape) in arrays.items():
        start, end = places[name]
        if (
            kind not in TYPES
            or not 8 + length <= start <= end <= size
            or end - start != prod(shape) * TYPES[kind].itemsize
        ):
            raise BadInput(f"{path} is cut off, or its header is wrong about '{name}': collect again.")
    return arrays, places, about


def map_shard(path: Path, mode: str = "r") -> dict[str, np.ndarray]:
    """The arrays of a shard, mapped; mode "r+" to write."""
    arrays, places, _ = read_header(path)
    return {
        name: np.memmap(path, TYPES[kind], mode, places[name][0], shape)  # type: ignore[call-overload]
        for name, (kind, shape) in arrays.items()
    }


@dataclass(frozen=True)
class Shards:
    """The activations x [S, T, d] of a sharded store; files are mapped while they are read and no longer."""

    paths: Sequence[Path]
    shape: tuple[int, int, int]
    starts: np.ndarray
    """First sequence of each shard, [shards]."""

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Rows by flat position (sequence * T + column), in any order -> float32 [k, d]; each file is opened once."""
        _, T, d = self.shape
        out = np.empty((positions.size, d), np.float32)
        shard = np.searchsorted(self.starts, positions // T, "right") - 1
        order = np.argsort(shard, kind="stable")
        present, begins = np.unique(shard[order], return_index=True)
        for s, here in zip(present, np.split(order, begins[1:])):
            x = map_shard(self.paths[s])["x"].reshape(-1, d)
            out[here] = x[positions[here] - self.starts[s] * T]
        return out
