"""The files of the release: standard_sae.pt, multi_encoder_sae.pt, loc_angular_meta.pt, and the converted ae.pt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.checkpoints import load_sae
from repro.checkpoints.formats.native import save_sae
from repro.loca.variance import Protocol, uncentred
from repro.sae import SAE, StandardUncentred
from repro.training.files import save_torch


def write_release(out: Path, first: SAE, final: SAE, groups: list[Tensor], variance: Tensor) -> None:
    """Write the three files of the release and sae.safetensors into a folder that holds its config.json already.

    b_dec is folded into the encoders' biases; where it is not 0 (corrected) it is a tensor of its own besides, which
    the released code does not know.
    """
    first, final = uncentred(first), uncentred(final)
    standard = {
        "encoder.weight": first.W_enc.t(),
        "encoder.bias": first.b_enc,
        "decoder.weight": first.W_dec.t(),
    }
    _torch_file(out / "standard_sae.pt", standard | _b_dec(first))
    multi, start = {}, 0
    for i, size in enumerate(final.config.group_sizes):
        part = slice(start, start + size)
        multi[f"encoders.{i}.weight"] = final.W_enc[:, part].t()
        multi[f"encoders.{i}.bias"] = final.b_enc[part]
        multi[f"decoders.{i}.weight"] = final.W_dec[part].t()
        start += size
    _torch_file(out / "multi_encoder_sae.pt", multi | _b_dec(final))
    meta = {
        "groups_indices": [g.clone() for g in groups],
        "angular_variance": variance.float(),
        "group_ks": list(final.config.group_ks),
    }
    _torch_file(out / "loc_angular_meta.pt", meta)
    save_sae(final, out / "sae.safetensors")


def convert(folder: str | Path, protocol: Protocol = "corrected") -> Path:
    """Write ae.pt, one SAE in one file, from a LocA folder (trained here or by the release).

    as_released: W_enc [m, d] and W_dec [d, m] in group order, no biases, no groups, no k: what the release evaluates
    as a plain ReLU. corrected: biases, group_sizes and group_ks too, from which `load_sae` restores the SAE exactly.
    """
    folder = Path(folder)
    source = folder / "multi_encoder_sae.pt"
    if not source.is_file():
        raise BadInput(f"{folder} has no multi_encoder_sae.pt: give the output folder of `repro loca train`.")
    sae = load_sae(source)
    tensors = {"W_enc": sae.W_enc.t(), "W_dec": sae.W_dec.t()}
    if protocol == "corrected":
        tensors |= {"b_enc": sae.b_enc, **_b_dec(sae)}
        tensors |= {name: torch.tensor(getattr(sae.config, name)) for name in ("group_sizes", "group_ks")}
    return _torch_file(folder / "ae.pt", tensors)


@torch.no_grad()
def converted(sae: SAE) -> SAE:
    """Convert a LocA SAE as the release does: its weights without biases, groups and k, as a plain ReLU."""
    out = StandardUncentred(StandardUncentred.Config(sae.config.d, sae.config.m), sae.source).to(sae.W_dec.device)
    out.W_enc.copy_(sae.W_enc)
    out.W_dec.copy_(sae.W_dec)
    return out


def _b_dec(sae: SAE) -> dict[str, Tensor]:
    return {"b_dec": sae.b_dec} if bool(sae.b_dec.any()) else {}


def _torch_file(path: Path, content: dict[str, Any]) -> Path:
    plain = {k: v.detach().cpu().contiguous().clone() if isinstance(v, Tensor) else v for k, v in content.items()}
    return save_torch(path, plain)
