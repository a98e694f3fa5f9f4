"""Activations on disk: open and check a file, and choose which of its tokens count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro.activations.integrity import check_files, read_manifest
from repro.activations.rows import Batch, Rows
from repro.base.config import EXCLUDE
from repro.base.errors import BadInput, nearest

__all__ = [
    "EXCLUDE",
    "ActivationStore",
    "Batch",
    "Files",
    "Rows",
    "find_stores",
    "locate_store",
    "open_store",
    "store_name",
]

NAME = re.compile(r"acts_layer\d+(_(resid_pre|attn_out|mlp_out|hook_z))?")  # of a store, without suffix
SIDE = {"mask": np.dtype(bool), "docs": np.dtype("<i4"), "tokens": np.dtype("<i4"), "norms": np.dtype("<f4")}


@dataclass(frozen=True)
class Files:
    """The names of the files that belong to one activation file."""

    acts: Path

    @property
    def side(self) -> dict[str, Path]:
        """Role -> path of the files beside the activations, in the order in which they are put in place."""
        stem = self.acts.stem
        names = {
            "mask": f"{stem}.mask.npy",
            "tokens": f"{stem.replace('acts_', 'tokens_', 1)}.npy",
            "docs": f"{stem}.docs.npy",
            "norms": f"{stem}.norms.npy",
            "labels": f"{stem}.labels.npy",
        }
        return {role: self.acts.with_name(name) for role, name in names.items() if name != self.acts.name}

    @property
    def json(self) -> Path:
        """Provenance; its presence says that all the others are complete."""
        return self.acts.with_suffix(".json")


@dataclass
class ActivationStore:
    """Activations x [S, T, d] on disk with, per position, mask, tokens, docs [S, T]; labels [n_docs]."""

    path: Path
    x: np.ndarray
    mask: np.ndarray
    docs: np.ndarray
    tokens: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    norms: np.ndarray | None = None
    flat: bool = False

    @property
    def d(self) -> int:
        """Width of the activations."""
        return int(self.x.shape[-1])

    @property
    def place(self) -> dict[str, Any]:
        """layer, site and model of the activations where the manifest says them; without one, what the name does."""
        if self.meta:
            model = self.meta.get("model") or {}
            return {"layer": self.meta.get("layer"), "site": self.meta.get("site", ""), "model": model.get("name", "")}
        layer, site = (
            re.search(r"layer_?(\d+)", self.path.stem),
            re.search(r"resid_pre|attn_out|mlp_out|hook_z", self.path.stem),
        )
        return {"layer": int(layer[1]) if layer else None, "site": site[0] if site else "", "model": ""}

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Rows by flat position (sequence * T + column), in the order given -> float32 [k, d]."""
        return np.ascontiguousarray(self.x.reshape(-1, self.d)[positions], dtype=np.float32)

    def select(self, exclude: Sequence[str] = EXCLUDE, max_norm_ratio: float | None = None) -> Rows:
        """The tokens that count, as rows.

        pad = what the mask says; bos, eos = by token id (eos includes the token between packed documents);
        first = column 0 of each sequence, where models without a BOS token put their attention sink.
        max_norm_ratio drops tokens whose norm is more than this many times the median norm of the tokens that are
        left by then. What a file cannot tell (token ids of a bare .npy, sequences of an [n, d] file) is not
        excluded; `Rows.describe()["ignored"]` names it. Raises BadInput when nothing is left or values are not finite.
        """
        for word in exclude:
            if word not in EXCLUDE:
                raise BadInput(f"Cannot exclude '{word}'{nearest(word, EXCLUDE)}; choose from {', '.join(EXCLUDE)}.")
        if max_norm_ratio is not None and not max_norm_ratio > 0:
            raise BadInput(f"max_norm_ratio must be positive, not {max_norm_ratio}.")
        keep = np.ones(self.mask.shape, bool)
        dropped: dict[str, int] = {}
        ignored: list[str] = []
        for word in (w for w in EXCLUDE if w in exclude):
            drop = self._positions(word)
            if drop is None:
                ignored.append(word)
                continue
            dropped[word] = int((keep & drop).sum())
            keep &= ~drop
        index = np.flatnonzero(keep)
        if not index.size:
            raise BadInput(f"No token of {self.path.name} is left after excluding {', '.join(exclude)}; exclude less.")
        norms = self._norms(index)
        if not np.isfinite(norms).all():
            bad = int((~np.isfinite(norms)).sum())
            raise BadInput(f"{self.path} holds NaN or infinite values in {bad} tokens; collect it again in float32.")
        if max_norm_ratio is not None:
            small = norms <= max_norm_ratio * float(np.median(norms))
            dropped["norm"] = int((~small).sum())
            index, norms = index[small], norms[small]
            if not index.size:
                raise BadInput(f"max_norm_ratio {max_norm_ratio} drops every token of {self.path.name}; raise it.")
        description = {
            "file": self.path.name,
            "exclude": [w for w in EXCLUDE if w in exclude],
            "ignored": ignored,
            "max_norm_ratio": max_norm_ratio,
            "positions": int(self.mask.size),
            "kept": int(index.size),
            "dropped": dropped,
            "norm_median": float(np.median(norms)),
            "norm_max": float(norms.max()),
        }
        if zeros := int((norms == 0).sum()):
            description["zeros"] = zeros
        return Rows(self, index, description)

    def _positions(self, word: str) -> np.ndarray | None:
        """Mask [S, T] of the positions of this kind; None where the file cannot tell."""
        if word == "pad":
            return ~self.mask
        if word == "first":
            if self.flat:
                return None
            drop = np.zeros(self.mask.shape, bool)
            drop[:, 0] = True
            return drop
        if self.tokens is None:
            return None
        ids = self.meta.get("special_ids", {}).get(word, [])
        return np.isin(self.tokens, ids) & self.mask

    def _norms(self, index: np.ndarray) -> np.ndarray:
        """Euclidean norms [n] of rows, from the file beside the activations or by reading them."""
        if self.norms is not None:
            return self.norms.reshape(-1)[index]
        rows = Rows(self, index, {})
        return torch.cat([torch.linalg.vector_norm(x, dim=1) for x in rows.blocks(16384)]).numpy()


def open_store(path: str | Path, verify: bool = False) -> ActivationStore:
    """Open collected activations, or any float .npy of shape [n, d] or [S, T, d], without reading them into memory.

    A folder stands for the one store in it. A collected store is checked against its manifest (names, bytes and a
    sample of each file; with verify every sha256). A bare .npy has only real tokens; its documents are its sequences
    (or rows). Raises BadInput naming the file that is missing, cut off, foreign, of another shape, or not made of
    floats.
    """
    files = Files(locate_store(Path(path).expanduser()))
    x = _map(files.acts)
    if x.dtype.kind != "f" or x.ndim not in (2, 3) or not x.size or not x.flags.c_contiguous:
        raise BadInput(
            f"{files.acts} must hold floats of shape [n, d] or [sequences, seq_len, d] in C order, "
            f"not {x.dtype} {list(x.shape)}."
        )
    flat = x.ndim == 2
    if flat:
        x = x.reshape(len(x), 1, -1)
    if not files.json.is_file():
        if any(p.is_file() for p in files.side.values()):
            raise BadInput(
                f"{files.json.name} is missing beside {files.acts}: run `repro collect` again to complete it."
            )
        docs = np.broadcast_to(np.arange(len(x), dtype=np.int32)[:, None], x.shape[:2])
        return ActivationStore(files.acts, x, np.ones(x.shape[:2], bool), docs, flat=flat)

    meta = read_manifest(files.json)
    names = {files.acts.name} | {p.name for p in files.side.values()}
    check_files(files.json, meta, files.acts.parent, names, verify)
    side = {role: _map(p) for role, p in files.side.items() if p.name in meta["files"]}
    for role, kind in SIDE.items():
        if role not in side or side[role].shape != x.shape[:2] or side[role].dtype != kind:
            raise BadInput(f"{files.side[role]} does not fit {files.acts} of shape {list(x.shape)}: collect again.")
    if list(x.shape) != meta["shape"]:
        raise BadInput(f"{files.acts} has shape {list(x.shape)}, {files.json} says {meta['shape']}: collect again.")
    return ActivationStore(
        files.acts,
        x,
        side["mask"],
        side["docs"],
        side["tokens"],
        side.get("labels"),
        tuple(meta.get("label_names") or ()),
        meta,
        side["norms"],
    )


def store_name(layer: int, site: str = "resid_post") -> str:
    """Name of the store of a layer, without suffix."""
    return f"acts_layer{layer}" + ("" if site == "resid_post" else f"_{site}")


def find_stores(folder: Path) -> list[Path]:
    """Return the acts_layer*.npy files that `repro collect` wrote into a folder."""
    return sorted(p for p in folder.glob("acts_layer*.npy") if NAME.fullmatch(p.stem))


def locate_store(path: Path) -> Path:
    """Return the .npy file that a path stands for. Raises BadInput where there is none, or several."""
    if path.is_dir():
        stores = find_stores(path)
        if len(stores) != 1:
            names = ", ".join(p.name for p in stores) or "none"
            raise BadInput(f"{path} must hold one acts_layer*.npy to be named as a folder; it has: {names}.")
        return stores[0]
    if not path.is_file():
        raise BadInput(f"No activations at {path}; `repro collect` writes them.")
    if path.suffix != ".npy":
        raise BadInput(f"{path} is not a .npy file; give activations saved with numpy.save.")
    target = Files(path.resolve())
    linked = path.is_symlink() and target.json.is_file() and not Files(path).json.is_file()
    return target.acts if linked else path  # a link to a collected store means that store, whatever the link's name


def _map(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy parses a header as Python, and says so in many ways
        raise BadInput(
            f"{path} is not a complete .npy file ({' '.join(str(error).split())}): write it again."
        ) from None
