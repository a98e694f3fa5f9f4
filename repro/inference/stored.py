"""Inference of more tokens than fit in memory: codes written to a folder block by block, and read from it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.base.files import digest, write_json
from repro.base.lock import only_one
from repro.codes import KeptCodes, pair_of
from repro.inference.calibration import spread
from repro.inference.modes import block_of, infer_blocks
from repro.sae import SAE

ABOUT, CODES, TOKENS = "about.json", "codes.bin", "tokens.bin"
SAMPLE = 1024  # tokens, spread evenly over all, by which a run is known again
TOKEN = np.dtype([("nonzeros", "<i4"), ("objective", "<f8"), ("gap_lower", "<f8"), ("gap_upper", "<f8")])


@dataclass(frozen=True)
class StoredInference:
    """Codes of n tokens in a folder, and what is proven of each.

    codes.bin holds pairs (latent int32, value) of the nonzeros, tokens.bin a record `TOKEN` a token, about.json the
    rest: n, m, mode, protocol, lam, dtype of the values.
    """

    about: dict[str, Any]
    codes: KeptCodes
    """codes[i:j] reads rows as SparseCodes, blocks() reads all in order."""
    tokens: np.ndarray
    """Records `TOKEN`, [n]; NaN where no gap was asked for. As in `Inference`: objective, gap_lower, gap_upper."""


def infer_to(folder: str | Path, sae: SAE, x: Any, mode: str = "amortized", **options: Any) -> StoredInference:
    """Codes of activations x, written to a folder as they come; memory does not grow with the number of tokens.

    x: a tensor [n, d], or activations on disk (`repro.evaluate.Stored`), which are read a block at a time. options:
    protocol, steps, lam, tol and gap of `infer`. A run that was killed goes on after its last whole block, at the same
    lambda, to the same files; a finished one is only read. Codes take 8 bytes a nonzero, tokens 28 bytes each.
    Raises BadInput where the folder holds another run, or another process writes to it.
    """
    folder, sae = Path(folder), sae.one_sided()
    size = block_of(sae, options.get("protocol") == "as_released")
    about = {"n": len(x), "m": sae.config.m, "dtype": str(sae.W_dec.dtype).removeprefix("torch."), "mode": mode}
    about["key"] = digest(sae.describe(), _sums(sae, x[spread(len(x), SAMPLE)]), about, options, size)
    with only_one(folder, "infer_to"):
        if (folder / ABOUT).exists():
            old = json.loads((folder / ABOUT).read_text())
            if old["key"] != about["key"]:
                raise BadInput(f"{folder} holds codes of another run; choose another folder, or remove it.")
            options["lam"] = old["lam"]
        done = _whole_blocks(folder, about, size)
        if done < len(x):
            with open(folder / CODES, "ab") as codes, open(folder / TOKENS, "ab") as tokens:
                _write(folder, codes, tokens, about, infer_blocks(sae, x, mode, **options, start=done))
    return open_inference(folder)


def open_inference(folder: str | Path) -> StoredInference:
    """The codes that `infer_to` wrote; BadInput where it has not finished."""
    folder = Path(folder)
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).exists() else {"n": 0}
    tokens = _records(folder)
    if "m" not in about or len(tokens) < int(about["n"]):
        raise BadInput(
            f"{folder} holds codes of {len(tokens)} of {about['n']} tokens; call `infer_to` as before, and it goes on."
        )
    counts = torch.from_numpy(tokens["nonzeros"].astype(np.int64))
    file = open(folder / CODES, "rb")  # noqa: SIM115 -- closed with the codes
    codes = KeptCodes(about["m"], signed=True, dtype=getattr(torch, about["dtype"]), file=file, counts=counts)
    return StoredInference(about, codes, tokens)


def _write(folder: Path, codes: Any, tokens: Any, about: dict[str, Any], parts: Any) -> None:
    """Append every block: its pairs first, then its records, so that a record is of pairs that are there."""
    for part in parts:
        if not (folder / ABOUT).exists():
            write_json(folder / ABOUT, about | {"protocol": part.protocol, "lam": part.lam})
        keep = KeptCodes(about["m"], signed=True, dtype=part.codes.values.dtype, file=codes)
        keep.append(part.codes)
        codes.flush()
        records = np.zeros(len(part.codes), TOKEN)
        records["nonzeros"] = part.codes.l0.cpu()
        for name in ("objective", "gap_lower", "gap_upper"):
            values = getattr(part, name)
            records[name] = np.nan if values is None else values.cpu()
        tokens.write(records.tobytes())
        tokens.flush()


def _whole_blocks(folder: Path, about: dict[str, Any], size: int) -> int:
    """Tokens of the whole blocks that both files hold; what is behind them is cut off."""
    ends = _records(folder)["nonzeros"].cumsum(dtype=np.int64)
    width = pair_of(getattr(torch, about["dtype"])).itemsize
    pairs = (folder / CODES).stat().st_size // width if (folder / CODES).exists() else 0
    done = int(np.searchsorted(ends, pairs, "right"))
    done -= done % size if done < about["n"] else 0
    for name, length in ((CODES, width * int(ends[done - 1]) if done else 0), (TOKENS, TOKEN.itemsize * done)):
        if (folder / name).exists():
            os.truncate(folder / name, length)
    return done


def _records(folder: Path) -> np.ndarray:
    file = folder / TOKENS
    return np.fromfile(file, TOKEN) if file.exists() else np.zeros(0, TOKEN)


def _sums(sae: SAE, x: Tensor) -> list[float]:
    """Sums of the weights and of each of these activations [n, d], which tell one run from another."""
    return [*(float(t.sum(dtype=torch.float64)) for t in sae.state_dict().values()), *x.double().sum(1).tolist()]
