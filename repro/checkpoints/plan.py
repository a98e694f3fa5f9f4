"""Plan: what a reader decides from names, shapes and config, before a single weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repro.checkpoints.locate import Location
from repro.checkpoints.weights import CheckpointError, Lazy, Weights
from repro.sae import SAE, BatchTopK, Config, Source, TopK


@dataclass
class Options:
    """What a user may decide about reading; see load_sae. A reader takes what it needs, and the rest is refused."""

    as_released: bool = False
    eval_activation: Literal["threshold", "batch_topk"] | None = None
    norm_scaling_factor: float | None = None
    scaled_atoms: bool = False
    normalize: bool | None = None
    variant: str | None = None
    k: int | None = None
    centred: bool | None = None
    fallback_batch_topk: bool = False
    """A permission for whole trajectories, so never refused."""
    taken: set[str] = field(default_factory=lambda: {"taken", "fallback_batch_topk"})

    def take(self, name: str) -> Any:
        """The value of an option that means something for the SAE at hand."""
        self.taken.add(name)
        return getattr(self, name)

    def refuse_rest(self, sae: str) -> None:
        """CheckpointError for options that were given and mean nothing for this SAE."""
        rest = [f.name for f in fields(self) if f.name not in self.taken and getattr(self, f.name) != f.default]
        if rest:
            text = ", ".join(f"{name}={getattr(self, name)!r}" for name in rest)
            raise CheckpointError(
                f"{text} would change nothing for {sae}; leave {'it' if len(rest) == 1 else 'them'} out."
            )


@dataclass
class Plan:
    """An SAE that can be built: its class, config, source, and a function for each of its tensors."""

    cls: type[SAE]
    config: Any
    source: Source
    tensors: dict[str, Lazy]
    unit_atoms: bool = False
    """Does the training library promise atoms of norm 1 for a family whose selection depends on them?"""
    unit_on_load: bool = False
    """Does the training library divide atoms by their norms when it loads this class (normalize=)?"""
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
        if self.unit_on_load and options.normalize:
            sae = sae.renormalised()
        elif self.unit_on_load and options.normalize is None and _off_unit(state["W_dec"]) > 1e-3:
            self.notes.append(
                "Its atoms are not of unit norm and codes are those of the trained weights; dictionary_learning's "
                "load_dictionary divides atoms by their norms first: normalize=True gives its codes, which reconstruct "
                "the same."
            )
        sae.source.extra["notes"] = self.notes
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
        worst = _off_unit(atoms)
        if worst > 1e-2:
            raise CheckpointError(
                f"Atoms of {self.source.path} are off unit norm by up to {worst:.2g}, which {self.source.family} "
                "training rules out: the file may be damaged or converted; pass scaled_atoms=True to use it as it is."
            )


def _off_unit(atoms: Tensor) -> float:
    """The largest distance of an atom's norm from 1; atoms [m, d]."""
    return float((atoms.norm(dim=1) - 1).abs().max())


def source_of(where: Location, config: Config, format: str, family: str, **known: Any) -> Source:
    """The Source of an SAE: what a reader knows, the rest from its path; k and sparsity from the SAE's config."""
    k = getattr(config, "k", None)
    facts: dict[str, Any] = {"step": where.step, "layer": where.layer, "site": where.site, "k": k}
    facts |= {"sparsity": None if k is None else float(k)} | known
    return Source(family, **facts, extra={"format": format} | ({"config": where.config} if where.config else {}))


def selection(
    cls: type[SAE], k: Any, weights: Weights, options: Options, threshold: str = "threshold"
) -> tuple[dict[str, Any], dict[str, Lazy]]:
    """(config, tensors) that only top-k variants have, empty for others. A threshold that was never set is negative."""
    if not issubclass(cls.Config, TopK.Config):
        return {}, {}
    config: dict[str, Any] = {"k": whole(k, weights.path)}
    if issubclass(cls.Config, BatchTopK.Config):
        config["eval_activation"] = options.take("eval_activation") or "threshold"
    return config, {"threshold": constant(weights.number(threshold) if threshold in weights else -1.0)}


def whole(k: Any, path: Path) -> int:
    """k as a whole number. CheckpointError for text, fractions and truth values."""
    if isinstance(k, bool) or not isinstance(k, int | float) or not float(k).is_integer():
        raise CheckpointError(f"k of {path} is {k!r}; a whole number of latents is needed.")
    return int(k)


def layer_of(value: Any) -> int | None:
    """A layer as a config gives it, a number or its digits as text; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def constant(value: float) -> Lazy:
    """A number that is no tensor of the file."""
    return lambda: torch.tensor(value)


def zeros(size: int) -> Lazy:
    """A bias that the format does not have."""
    return lambda: torch.zeros(size)


def scaled(read: Lazy, factor: float | Tensor) -> Lazy:
    """Read, then multiply in place."""
    return lambda: read().mul_(factor)
