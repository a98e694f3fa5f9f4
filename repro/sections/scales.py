"""The dial of every experiment: model, text, tokens, latents and training steps of the scales tiny, small, paper, …"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repro.base.config import Device, Dtype, from_mapping
from repro.base.errors import BadInput, nearest


@dataclass(frozen=True)
class Scale:
    """One dial for everything an experiment needs; notebooks take its name and may change any field."""

    name: str = "tiny"
    """Name of the scale: where its tables lie under data/results/."""
    model: str = "tiny"
    """Language model (preset, hub id or folder)."""
    layer: int | None = None
    """Block whose output is read; the preset's if not given."""
    dtype: Dtype = "auto"
    """Arithmetic of the language model; CPUs without instructions for bfloat16 are five times faster in float32."""
    dataset: str = "tiny"
    """Text that activations are collected from; training tokens come first, evaluation tokens after them."""
    labelled: str = "tiny-labels"
    """Labelled documents for the probes."""
    train_tokens: int = 200_000
    """Tokens that SAEs are trained on."""
    eval_tokens: int = 1_000
    """Tokens of the corrected protocol, after the training tokens."""
    released_tokens: int = 300
    """Tokens of the as_released protocol (the first of the evaluation tokens; the paper took 10,000)."""
    label_docs: int = 320
    """Labelled documents: half order and fit the probes, half score them."""
    seq_len: int = 128
    """Tokens a sequence."""
    m: int = 512
    """Latents of every SAE."""
    steps: int = 400
    """Training steps."""
    batch_size: int = 1024
    """Tokens a training step."""
    lr: float | None = None
    """Peak learning rate; grows as training gets shorter if not given (`training.recipe.Recipe.scaled`)."""
    l1: tuple[float, ...] = (0.15, 0.3)
    """L1 coefficients of the Standard SAEs."""
    ks: tuple[int, ...] = (16, 32)
    """k of the Top-K and BatchTopK SAEs."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Sparsities by variant, trained instead of `l1` and `ks`: k, target L0 (jumprelu) or L1 coefficient."""
    sweep_steps: tuple[int, ...] = (0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 50)
    """ISTA steps of the semi sweep."""
    max_norm_ratio: float | None = None
    """Drop tokens whose norm exceeds this many medians, in training and evaluation."""
    tol: float = 1e-3
    """Relative duality gap of certified codes."""
    bootstrap: int = 200
    """Resamples of the documents behind the intervals of probes that are picked anew."""
    seed: int = 0
    """Seed of every random draw."""
    device: Device = "auto"
    """auto = cuda where there is one."""


SCALES: dict[str, Scale] = {
    "tiny": Scale(),
    "small": Scale(
        name="small",
        model="smollm2-135m",
        train_tokens=300_000,
        eval_tokens=4_000,
        released_tokens=1_000,
        label_docs=800,
        m=4096,
        steps=1_000,
        batch_size=1024,
        l1=(0.1,),
        ks=(24, 64),
        max_norm_ratio=5.0,
    ),
    "paper": Scale(
        name="paper",
        model="pythia-160m-deduped",
        dataset="monology/pile-uncopyrighted",
        train_tokens=500_000_000,
        eval_tokens=10_000,
        released_tokens=10_000,
        label_docs=8_000,
        seq_len=128,
        m=16_384,
        steps=244_140,
        batch_size=2048,
        lr=3e-4,
        l1=(0.012, 0.015, 0.02, 0.03, 0.04, 0.06),
        ks=(20, 40, 80, 160, 320, 640),
        bootstrap=1000,
    ),
}
FEW_SAES: dict[str, Any] = {
    "dtype": "float32",
    "dataset": "debian-descriptions",
    "train_tokens": 250_000,  # each seen twice
    "eval_tokens": 15_000,
    "label_docs": 40,  # the price has no probes
    "m": 2048,
    "steps": 500,
    "grid": {"standard": (0.05, 0.1), "topk": (16.0, 64.0), "batch_topk": (16.0, 64.0)},
}
"""What the scales have in common that only the price is computed at: another language model, another layer."""
SCALES["gemma"] = dataclasses.replace(SCALES["small"], name="gemma", model="gemma-3-270m", **FEW_SAES)
SCALES["small-late"] = dataclasses.replace(SCALES["small"], name="small-late", layer=22, **FEW_SAES)


K_TINY = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
TRAJECTORIES: dict[str, Scale] = {
    "tiny": dataclasses.replace(
        SCALES["tiny"],
        train_tokens=1_200_000,  # each seen four times and a little: 5.12 million in all
        eval_tokens=2_000,
        steps=2_500,
        batch_size=2048,
        grid={
            "standard": (0.03, 0.05, 0.08, 0.12, 0.2, 0.3),
            "gated": (0.05, 0.08, 0.12, 0.2, 0.3, 0.5),
            "topk": K_TINY,
            "batch_topk": K_TINY,
            "matryoshka_batch_topk": K_TINY,
            "jumprelu": K_TINY,
        },
    ),
    "small": dataclasses.replace(
        SCALES["small"],
        dataset="tiny-training",
        train_tokens=2_043_498,  # with the evaluation's and 5 % to spare, 2.15 million are collected
        m=2048,
        steps=1_000,
        batch_size=2048,
        grid={
            "standard": (0.02, 0.035, 0.06, 0.1, 0.15, 0.22),
            "topk": (10.0, 20.0, 40.0, 80.0, 160.0, 320.0),
            "gated": (0.1, 0.2),
            "batch_topk": (20.0, 80.0),
            "matryoshka_batch_topk": (20.0, 80.0),
            "jumprelu": (20.0, 80.0),
        },
    ),
}
"""Settings of the trajectories of all variants (§4.3), by scale; SAEBench's grids, moved to what these models need."""

PRICED: dict[str, Scale] = {
    "small": dataclasses.replace(
        SCALES["small"],
        dtype="float32",
        dataset="debian-descriptions",
        train_tokens=400_000,  # each seen 1.8 times
        eval_tokens=30_000,
        label_docs=40,  # the section has no probes
        m=2048,
        steps=700,
        batch_size=1024,
        grid={
            "standard": (0.05, 0.1),
            "gated": (0.08, 0.2),
            "topk": (16.0, 64.0),
            "batch_topk": (16.0, 64.0),
            "matryoshka_batch_topk": (16.0, 64.0),
            "jumprelu": (16.0, 64.0),
        },
    ),
}
"""Settings of the SAEs of the section on the price, where they are not the scale's own: all variants, held-out text of
the same source as the training text."""
PRICE_SEEDS: dict[str, tuple[int, ...]] = {"small": (0, 1, 2)}
"""Seeds of the SAEs of that section, counted from the scale's; a scale that is not here has its own alone."""


def scale_of(name: str, **changes: Any) -> Scale:
    """A scale by name with some fields changed; None leaves a field as it is. Raises BadInput for unknown names."""
    if name not in SCALES:
        raise BadInput(f"No scale '{name}'{nearest(name, SCALES)}; there are {', '.join(SCALES)}.")
    known = [f.name for f in dataclasses.fields(Scale)]
    for key in changes:
        if key not in known:
            raise BadInput(f"A scale has no '{key}'{nearest(key, known)}; it has {', '.join(known)}.")
    given = {k: v for k, v in changes.items() if v is not None}
    return from_mapping(Scale, dataclasses.asdict(SCALES[name]) | given)
