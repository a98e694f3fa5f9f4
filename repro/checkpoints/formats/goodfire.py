"""Goodfire's and qresearch's {model}-SAE-l{L}.pt: ReLU, b_dec not subtracted, everything else in the name."""

from __future__ import annotations

import re

from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, source_of
from repro.checkpoints.weights import Weights
from repro.sae import StandardUncentred

_FILE = re.compile(r"(.+)-SAE-l(\d+)\.\w+")
_OWNERS = {"Llama": "meta-llama/", "DeepSeek": "deepseek-ai/"}


def by_keys(weights: Weights, options: Options) -> bool:
    """Do the names of the tensors say so (Goodfire's), or those of nn.Linear and the file's name (qresearch's)?"""
    if "encoder_linear.weight" in weights:
        return True
    linear = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    return _FILE.fullmatch(weights.path.name) is not None and weights.shapes.keys() == linear


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """ReLU of the residual stream after the layer that the file's name gives."""
    part = "_linear" if "encoder_linear.weight" in weights else ""
    names = {"W_enc": f"encoder{part}.weight", "b_enc": f"encoder{part}.bias"}
    names |= {"W_dec": f"decoder{part}.weight", "b_dec": f"decoder{part}.bias"}
    d, m, tensors = weights.sae(names)
    file = _FILE.fullmatch(weights.path.name)
    model, layer = (file[1], int(file[2])) if file else ("", None)
    known = {"site": "resid_post", "layer": layer, "lm_name": _OWNERS.get(model.partition("-")[0], "") + model}
    config = StandardUncentred.Config(d, m)
    source = source_of(where, config, "goodfire", "standard", **(known if file else {}))
    notes = [] if file else ["Its file's name does not say what it reads (Llama-3.1-8B-Instruct-SAE-l19.pth does)."]
    return Plan(StandardUncentred, config, source, tensors, notes=notes)
