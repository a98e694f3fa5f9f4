"""Will a model fit? Its weights as the files declare them, against the memory that is free."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import torch

from repro.base.errors import BadInput
from repro.base.memory import memory_available

FLOATS = ("F64", "F32", "F16", "BF16")
IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")  # of a tensor's name, in every family that is known
HEADS = ("lm_head.", "embed_out.")


def model_bytes(folder: Path, dtype: torch.dtype, blocks: int | None = None, head: bool = True) -> int:
    """Bytes of the weights of *.safetensors once they are loaded in `dtype`; only the headers are read.

    blocks: only those of the first blocks and of what is in no block. head: with the matrix that gives logits, where
    it is not the embedding.
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(path).items():
            block = IN_BLOCK.search(name)
            if (blocks is not None and block and int(block[1]) >= blocks) or (not head and name.startswith(HEADS)):
                continue
            first, last = tensor["data_offsets"]
            floats = tensor["dtype"] in FLOATS
            total += math.prod(tensor["shape"]) * dtype.itemsize if floats else last - first
    return total


def _header(path: Path) -> dict[str, dict]:
    """The tensors that a safetensors file declares: [u64 little-endian length][JSON]; {} where it is no such file."""
    try:
        with open(path, "rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size)) if size < 2**27 else {}
        return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error):  # loading it will say what is wrong
        return {}


def free_bytes(device: torch.device | None = None) -> int | None:
    """Free memory of a CUDA device, or what processes here may still take; None where nobody knows."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_available()


def check_memory(name: str, needed: int, fix: str, device: torch.device | None = None) -> None:
    """Raise BadInput with the fix where `needed` bytes are more than what is free."""
    free = free_bytes(device)
    if free is not None and needed > free:
        where = "on the GPU" if device is not None and device.type == "cuda" else "in memory"
        raise BadInput(f"{name} needs {needed / 1e9:.1f} GB {where} and {free / 1e9:.1f} GB are free: {fix}.")
