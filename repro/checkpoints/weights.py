"""Weights: the tensors of one checkpoint file, opened without reading them, checked, then read one by one."""

from __future__ import annotations

import ctypes
import mmap
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput, exhausted

FLOATS = ("float32", "bfloat16", "float16", "float64")
INTS = ("int64", "int32", "int16", "uint8")
_SAFETENSORS = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
}
# what torch.compile, DataParallel, Lightning and other modules put before each name, and what training loops put around
_PREFIXES = ("_orig_mod.", "module.", "model.", "sae.", "autoencoder.")
_WRAPPERS = ("state_dict", "model_state_dict", "sae_state_dict", "model", "sae")
_BLOCK = 2**20  # numbers copied at a time: keeps the pages of the file that are in memory below 4 MiB

Lazy = Callable[[], Tensor]


class CheckpointError(BadInput):
    """A checkpoint that cannot be read exactly; the sentence says why and what to do."""


class Weights:
    """Named tensors of a .pt, .safetensors or .npz file.

    Opening reads names, shapes and types only. `tensor` checks one and returns a function that reads it as a new
    contiguous float32 tensor; nothing is allocated before that. A name that no reader asked for is refused.
    """

    def __init__(self, path: Path):
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self.other: dict[str, Any] = {}  # what a .pt holds beside tensors
        self.config: dict[str, Any] = {}  # what a training loop put beside the state_dict
        self.metadata: dict[str, str] = {}  # of a .safetensors
        self._get: Callable[[str], Tensor]
        self._known: set[str] = set()
        self._mapped = False  # do tensors lie in a read-only mapping of the file?
        self._copied = False  # is what _get returns a fresh copy already?
        with path.open("rb") as f:
            head = f.read(32)
        if not head:
            raise CheckpointError(f"{path} is empty; download or save it again.")
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository."
            )
        if path.suffix.lower() == ".safetensors":
            self._open_safetensors()
        elif path.suffix.lower() == ".npz":
            self._open_npz()
        else:
            self._open_torch(head)
        self._strip()

    # --- opening, one method a container ------------------------------------------------------
    def _open_torch(self, head: bytes) -> None:
        try:
            try:
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
                self._mapped = True
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                content = torch.load(self.path, map_location="cpu", weights_only=True)  # PyTorch < 1.6 wrote no zip
        except pickle.UnpicklingError:
            if head[:2] not in (b"PK", b"\x80\x02", b"\x80\x04"):  # neither a zip archive nor a pickle
                raise CheckpointError(
                    f"{self.path} is not a complete PyTorch file; download or save it again."
                ) from None
            raise CheckpointError(
                f"{self.path} holds Python objects beside tensors, and opening those could run code: "
                "save only the state_dict() with torch.save and load that."
            ) from None
        except Exception as error:  # what is no pickle may look like any sequence of its operations
            if exhausted(error):
                raise
            raise CheckpointError(
                f"{self.path} is not a complete PyTorch file ({_first_line(error)}); download or save it again."
            ) from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.path} holds a {type(content).__name__}, not a state_dict; save state_dict().")
        inner = next((content[k] for k in _WRAPPERS if _has_tensors(content.get(k))), None)
        if inner is not None and not _has_tensors(content):
            names = {k for k, v in inner.items() if isinstance(v, Tensor)}
            same = [k for k, v in content.items() if _has_tensors(v) and names <= v.keys()]
            if len(same) > 1:
                raise CheckpointError(
                    f"{self.path} holds several SAEs ({', '.join(same)}); save the one you mean alone."
                )
            self.config = next((content[k] for k in ("cfg", "config") if isinstance(content.get(k), dict)), {})
            content = inner
        self.use(content)

    def use(self, content: dict[str, Any]) -> None:
        """Take the tensors of a state_dict."""
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
        for name, value in tensors.items():
            if value.layout != torch.strided:
                raise CheckpointError(f"{name} in {self.path} is a sparse tensor; save it as a dense one.")
            if value.is_meta or value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise CheckpointError(f"{name} in {self.path} claims more numbers than the file holds; it is damaged.")
        self.other = {k: v for k, v in content.items() if k not in tensors}
        self.shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        self.types = {k: str(v.dtype).removeprefix("torch.") for k, v in tensors.items()}
        self._get = tensors.__getitem__
        self._strip()

    def _strip(self) -> None:
        """Drop a prefix that all names share."""
        while prefix := next((p for p in _PREFIXES if self.shapes and all(n.startswith(p) for n in self.shapes)), ""):
            self.shapes = {name.removeprefix(prefix): shape for name, shape in self.shapes.items()}
            self.types = {name.removeprefix(prefix): kind for name, kind in self.types.items()}
            self._get = lambda name, get=self._get, prefix=prefix: get(prefix + name)  # type: ignore[misc]

    def _open_safetensors(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(self.path, "pt")
            self.metadata = file.metadata() or {}
            slices = {k: file.get_slice(k) for k in file.keys()}  # noqa: SIM118
            self.shapes = {k: tuple(v.get_shape()) for k, v in slices.items()}
            self.types = {k: _SAFETENSORS.get(v.get_dtype(), v.get_dtype()) for k, v in slices.items()}
        except SafetensorError as error:
            raise CheckpointError(
                f"{self.path} is not a complete safetensors file ({_first_line(error)}); download or save it again."
            ) from None
        self._get = file.get_tensor
        self._mapped = True

    def _open_npz(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as f:
                        np.lib.format.read_magic(f)
                        shape, _, dtype = np.lib.format.read_array_header_1_0(f)
                        self.shapes[name.removesuffix(".npy")] = shape
                        self.types[name.removesuffix(".npy")] = dtype.name
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise CheckpointError(
                f"{self.path} is not a complete npz file ({_first_line(error)}); download it again."
            ) from None
        arrays = np.load(self.path, allow_pickle=False)
        self._get = lambda name: torch.from_numpy(arrays[name])
        self._copied = True

    # --- what readers call --------------------------------------------------------------------
    def agrees(self, config: Mapping[str, Any], **sizes: int) -> None:
        """CheckpointError where a config names another size than the tensors have."""
        for name, size in sizes.items():
            if config.get(name) not in (None, 0, size):
                raise CheckpointError(
                    f"{self.path} has {name} {size}, but its config says {config[name]}; they do not belong together."
                )

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def matrix(self, name: str) -> tuple[int, int]:
        """Shape of a matrix that has to be there."""
        self._require(name)
        shape = self.shapes[name]
        if len(shape) != 2:
            raise CheckpointError(f"{name} in {self.path} has shape {shape}; a matrix is needed.")
        return shape

    def sae(self, names: Mapping[str, str], turned: bool = False) -> tuple[int, int, dict[str, Lazy]]:
        """(d, m, a function that reads each tensor); `names` maps our names to the file's.

        Matrices of nn.Linear, whose names end in .weight, lie the other way round than ours; all do if `turned`.
        """
        turn = {ours: name.endswith(".weight") or turned for ours, name in names.items()}
        d, m = self.matrix(names["W_enc"])[:: -1 if turn["W_enc"] else 1]
        tensors = {}
        for ours, name in names.items():
            shape = {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,)}.get(ours, (m,))
            turns = turn[ours] and len(shape) == 2
            tensors[ours] = self.tensor(name, *shape[:: -1 if turns else 1], transpose=turns)
        return d, m, tensors

    def tensor(self, name: str, *shape: int, transpose: bool = False) -> Lazy:
        """A function that reads `name`, which has to have `shape` in the file, as float32; turned if `transpose`."""
        self._require(name)
        if self.shapes[name] != shape:
            raise CheckpointError(
                f"{name} in {self.path} has shape {self.shapes[name]} where {shape} is needed; "
                "the file and its config do not belong together, or the file is of another kind."
            )
        if self.types[name] not in FLOATS:
            raise CheckpointError(f"{name} in {self.path} is {self.types[name]}; weights in floating point are needed.")
        self._known.add(name)
        return lambda: self._read(name, transpose)

    def number(self, name: str) -> float:
        """A tensor with one element as a Python number."""
        self._require(name)
        if self.shapes[name] not in ((), (1,)):
            raise CheckpointError(f"{name} in {self.path} has shape {self.shapes[name]}; one number is needed.")
        self._known.add(name)
        if self.types[name] not in FLOATS + INTS:
            raise CheckpointError(f"{name} in {self.path} is {self.types[name]}; a number is needed.")
        value = self._get(name)
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name} in {self.path} is {value.item()}; the checkpoint is of no use.")
        return value.item()

    def integers(self, name: str) -> tuple[int, ...]:
        """A short vector of whole numbers."""
        self._require(name)
        if self.types[name] not in INTS or len(self.shapes[name]) != 1:
            raise CheckpointError(f"{name} in {self.path} must be a vector of whole numbers.")
        self._known.add(name)
        return tuple(int(v) for v in self._get(name))

    def ignore(self, *names: str) -> None:
        """Names that have no part in inference."""
        self._known.update(names)

    def refuse_unknown(self) -> None:
        """CheckpointError if the file holds tensors that no reader knows: its inference would be a guess."""
        unknown = sorted(set(self.shapes) - self._known)
        if unknown:
            raise CheckpointError(
                f"{self.path} holds {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}, which its format "
                "does not have, so exact inference cannot be guaranteed; check which library and version wrote it."
            )

    def _require(self, name: str) -> None:
        if name not in self.shapes:
            raise CheckpointError(
                f"{self.path} has no {name} (it holds {', '.join(sorted(self.shapes)[:8]) or 'no tensors'}); "
                "the file and its config do not belong together, or the file is of another kind."
            )

    def _read(self, name: str, transpose: bool) -> Tensor:
        view = self._get(name).T if transpose else self._get(name)
        if self._copied and view.dtype == torch.float32 and view.is_contiguous():
            return _finite(view, name, self.path)
        out = torch.empty(view.shape)
        axis = max(range(view.ndim), key=view.stride)  # the slowest one: walk the file from front to back
        step = max(1, _BLOCK * view.shape[axis] // max(1, view.numel()))
        for start in range(0, view.shape[axis], step):
            part = view.narrow(axis, start, min(step, view.shape[axis] - start))
            out.narrow(axis, start, part.shape[axis]).copy_(_finite(part.float(), name, self.path))
            if self._mapped:
                _forget(part)
        return out


def _has_tensors(content: Any) -> bool:
    return isinstance(content, dict) and any(isinstance(value, Tensor) for value in content.values())


def _finite(values: Tensor, name: str, path: Path) -> Tensor:
    if values.numel() and not all(torch.isfinite(v) for v in torch.aminmax(values)):
        raise CheckpointError(f"{name} in {path} holds NaN or Inf; the training run diverged or the file is damaged.")
    return values


def _forget(part: Tensor) -> None:
    """Give the pages of a file mapping back at once, so that reading never holds a file in memory twice.

    Harmless on a mapping that nobody writes to: a page that is needed again is read again.
    """
    if not sys.platform.startswith("linux"):
        return
    storage = part.untyped_storage()
    end = min(part.data_ptr() + part.numel() * part.element_size(), storage.data_ptr() + storage.nbytes())
    start = -(-part.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    if end - start >= mmap.PAGESIZE:  # whole pages inside this part only
        length = (end - start) // mmap.PAGESIZE * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 4)  # 4 = MADV_DONTNEED


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:160] or type(error).__name__
