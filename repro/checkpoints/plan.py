"""Plan: what a reader decides from names, shapes and config, before a single weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from repro.checkpoints.weights import CheckpointError, Lazy
from repro.sae import SAE, Source


@dataclass(frozen=True)
class Options:
    """What a user may decide about reading; see load_sae."""

    as_released: bool = False
    eval_activation: Literal["threshold", "batch_topk"] | None = None
    fallback_batch_topk: bool = False
    norm_scaling_factor: float | None = None
    scaled_atoms: bool = False


@dataclass
class Plan:
    """An SAE that can be built: its class, config, source, and a function for each of its tensors."""

    cls: type[SAE]
    config: Any
    source: Source
    tensors: dict[str, Lazy]
    unit_atoms: bool = False
    """Does the training library promise atoms of norm 1 for a family whose selection depends on them?"""
    notes: list[str] = field(default_factory=list)
    """Sentences that a user of this SAE should know."""

    def build(self, options: Options) -> SAE:
        """Read the weights. CheckpointError for what only the weights can tell."""
        state = {name: read() for name, read in self.tensors.items()}
        if getattr(self.config, "eval_activation", None) == "threshold" and state["threshold"] < 0:
            self._without_threshold(float(state["threshold"]), options)
        with torch.device("meta"):  # no memory for initial values that are overwritten anyway
            sae = self.cls(self.config, self.source)
        sae.load_state_dict(state, assign=True)
        if self.unit_atoms and not options.scaled_atoms:
            self._check_norms(state["W_dec"])
        self.source.extra["notes"] = self.notes
        return sae.requires_grad_(False).eval()

    def _without_threshold(self, threshold: float, options: Options) -> None:
        if not options.fallback_batch_topk:
            raise CheckpointError(
                f"The threshold of {self.source.path} is {threshold:g}, so it was never set (the run saved it before "
                "thresholds start, or its library has none): pass eval_activation='batch_topk' to select over each "
                "batch, as in training."
            )
        self.config = replace(self.config, eval_activation="batch_topk")
        self.notes.append("Its threshold was never set, so it keeps the n k largest latents of each batch of n tokens.")

    def _check_norms(self, atoms: Tensor) -> None:
        worst = float((atoms.norm(dim=1) - 1).abs().max())
        if worst > 1e-2:
            raise CheckpointError(
                f"Atoms of {self.source.path} are off unit norm by up to {worst:.2g}, which {self.source.family} "
                "training rules out: the file may be damaged or converted; pass scaled_atoms=True to use it as it is."
            )


def constant(value: Tensor) -> Lazy:
    """A tensor that is no part of the file."""
    return lambda: value


def zeros(size: int) -> Lazy:
    """A bias that the format does not have."""
    return lambda: torch.zeros(size)


def scaled(read: Lazy, factor: float | Tensor) -> Lazy:
    """Read, then multiply in place."""
    return lambda: read().mul_(factor)
