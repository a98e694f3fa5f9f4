"""Formats that are known and not supported: refuse_known names them, so that a user knows what the file is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro.checkpoints.weights import CheckpointError, Weights

SUPPORTED = (
    "SAEs of dictionary_learning, SAELens, sparsify, Gemma Scope 1 and 2, Qwen-Scope, Llama Scope and llamascopium, "
    "Goodfire, attn-saes, latentsae, HypotheSAEs, BatchTopK and matryoshka_sae, OpenAI, LocA and repro"
)

_NOT_ITS_INPUT = "it predicts another activation than the one it reads, so no inference here applies to it"
_ACROSS = "it reads or writes several layers at once, so no inference here applies to it"

Test = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Any]], bool]

# what it is -> is it that (shapes of the tensors, config)?, why it is refused; the first that fits is named
KINDS: dict[str, tuple[Test, str]] = {
    "a cross-layer transcoder (CLT)": (
        lambda shapes, c: (
            str(c.get("type", c.get("sae_type"))).lower() in ("clt", "cross_layer_transcoder")
            or (_rank(shapes, "w_dec", "W_dec") == 3 and _rank(shapes, "w_enc", "W_enc") == 2)
        ),
        _ACROSS,
    ),
    "a crosscoder": (
        lambda shapes, c: (
            "crosscoder" in str(_part(c, "trainer").get("dict_class", c.get("sae_type"))).lower()
            or _rank(shapes, "encoder.weight", "W_enc", "w_enc", "W_E") == 3
        ),
        _ACROSS,
    ),
    "a transcoder": (
        lambda shapes, c: (
            "transcoder" in f"{c.get('type')} {c.get('sae_type')} {c.get('model_kind')} {c.get('architecture')}".lower()
            or bool(c.get("transcode") or c.get("is_transcoder"))
            or {"W_skip", "W_enc"} <= shapes.keys()
            or any(c.get(f"{h}_in") != c.get(f"{h}_out") for h in ("hook_point", "hf_hook_point") if c.get(f"{h}_out"))
            or any(p.get("hook_name_out") not in (None, p.get("hook_name")) for p in (c, _part(c, "metadata")))
            or _part(c, "buffer").get("io") in ("in_and_out", "in_to_out")
        ),
        _NOT_ITS_INPUT,
    ),
    "a temporal SAE": (
        lambda shapes, c: (
            c.get("architecture") == "temporal" or any(name.startswith("attn_layers.") for name in shapes)
        ),
        "its codes depend on the tokens before, so they are no function of one activation",
    ),
    "an SAE of e2e_sae": (lambda shapes, c: any(name.endswith("encoder.0.weight") for name in shapes), ""),
    "an SAE of mistral-sae": (lambda shapes, c: {"w_enc", "b_pre"} <= shapes.keys(), ""),
}


def refuse_known(weights: Weights, config: Mapping[str, Any]) -> None:
    """CheckpointError if this is a format that is known by name and not read here."""
    config = config or _circuit_tracer(weights.path.parent / "config.yaml")
    for name, (test, why) in KINDS.items():
        if test(weights.shapes, config):
            reason = f", which is not read here: {why}" if why else ", which is not read here yet"
            raise CheckpointError(f"{weights.path} is {name}{reason}. Supported are {SUPPORTED}.")


def _circuit_tracer(file: Path) -> dict[str, Any]:
    """The line of circuit-tracer's config.yaml that says what its weights are; no supported library writes YAML."""
    text = file.read_bytes().decode(errors="replace") if file.is_file() else ""
    match = re.search(r"^model_kind: *(\S+)", text, re.MULTILINE)
    return {"model_kind": match.group(1)} if match else {}


def _rank(shapes: Mapping[str, tuple[int, ...]], *names: str) -> int:
    return max((len(shapes[name]) for name in names if name in shapes), default=0)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}
