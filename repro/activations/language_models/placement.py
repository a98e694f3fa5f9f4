"""Place a language model's weights: the blocks that are needed, on which devices, if memory is enough."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from repro.base.errors import BadInput, missing_extra, nearest
from repro.base.memory import memory_available

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")  # words of transformers
FLOATS = ("F64", "F32", "F16", "BF16")
IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")  # of a tensor's name, in every family that is known
HEADS = ("lm_head.", "embed_out.")


def read_device_map(text: str) -> str | dict[str, Any]:
    """Read model.device_map as transformers takes it: a word of `SPREADS`, or {module: device}.

    Raises BadInput where it is neither, names a device that is not here, or accelerate is missing.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise missing_extra("accelerate", "lm")
    if text in SPREADS:
        return text
    places: Any = {"": text}
    if text.lstrip().startswith("{"):
        try:
            places = json.loads(text)
        except ValueError:
            places = {}
        if not places:
            raise BadInput(f"model.device_map is no JSON object: {text}; write, say, " + '\'{"": "cuda:0"}\'.')
    return {module: _place(place) for module, place in places.items()}


def _place(place: Any) -> str:
    name = f"cuda:{place}" if isinstance(place, int) else str(place)
    if name == "disk":  # weights stay in their file until a block runs
        return name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(
            f"model.device_map names '{name}'{nearest(name, SPREADS)}: give {', '.join(SPREADS)}, a device "
            "(cpu, cuda:1), or JSON {module: device}."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"model.device_map names {name}, and there are {torch.cuda.device_count()} CUDA devices here.")
    return name


def keep_blocks(settings: Any, blocks: int) -> None:
    """Change a transformers config so that only the first blocks are built and their weights read."""
    text = settings.get_text_config()
    total = int(text.num_hidden_layers)
    for name, value in vars(text).items():
        if "layer" in name and isinstance(value, list) and len(value) == total:  # a kind for every block, as in Gemma
            setattr(text, name, value[:blocks])
    text.num_hidden_layers = blocks


@contextmanager
def hushed(transformers: Any) -> Iterator[None]:
    """No warnings of transformers: it lists the weights that a model of fewer blocks leaves in the file."""
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(before)


def input_device(model: nn.Module) -> torch.device:
    """Device of the token ids; weights that are fetched when they are needed run elsewhere than they lie."""
    some: Any = model
    embedding = some.get_input_embeddings()
    place = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return embedding.weight.device if place is None else torch.device(place)


def places_of(model: nn.Module) -> dict[str, str]:
    """{module: device} as transformers has placed a model; "" is the whole of it."""
    some: Any = model
    places = getattr(some, "hf_device_map", None) or {"": some.device}
    return {module: f"cuda:{place}" if isinstance(place, int) else str(place) for module, place in places.items()}


def model_bytes(folder: Path, dtype: torch.dtype, blocks: int | None = None, head: bool = True) -> int:
    """Bytes of the weights of *.safetensors once they are loaded in `dtype`; only the headers are read.

    blocks: only those of the first blocks and of what is in no block. head: with the matrix that gives logits, where
    it is not the embedding.
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:  # loading it will say what is wrong
            for name in file.keys():  # noqa: SIM118  (a file, not a mapping)
                block = IN_BLOCK.search(name)
                if (blocks is not None and block and int(block[1]) >= blocks) or (not head and name.startswith(HEADS)):
                    continue
                tensor = file.get_slice(name)
                bits = re.search(r"\d+", tensor.get_dtype())  # F32, BF16, I64; BOOL has none
                own = int(bits[0]) // 8 if bits else 1
                total += math.prod(tensor.get_shape()) * (dtype.itemsize if tensor.get_dtype() in FLOATS else own)
    return total


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
