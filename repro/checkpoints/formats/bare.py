"""A state_dict of unknown origin: names give the tensors, the user gives variant, k and centred."""

from __future__ import annotations

from repro.base.errors import nearest
from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, selection, source_of
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import AbsTopK, BatchTopK, JumpReLU, MatchingPursuit, Standard, StandardUncentred, TopK

# our name -> names in other libraries' classes; the weights of nn.Linear lie the other way round
_NAMES = {
    "W_enc": ("W_enc", "encoder.weight"),
    "W_dec": ("W_dec", "decoder.weight"),
    "b_enc": ("b_enc", "encoder.bias"),
    "b_dec": ("b_dec", "decoder.bias", "bias"),
}
_VARIANTS = {
    cls.name: cls for cls in (Standard, StandardUncentred, TopK, BatchTopK, JumpReLU, MatchingPursuit, AbsTopK)
}
"""Those that have no other tensors."""


def by_keys(weights: Weights, options: Options) -> bool:
    """Are there an encoder and a decoder with their biases?"""
    return all(_name(weights, ours) for ours in _NAMES)


def _name(weights: Weights, ours: str) -> str:
    return next((name for name in _NAMES[ours] if name in weights), "")


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Build what the user says it is. CheckpointError, naming the options, where something is left to guess."""
    variant, centred = options.take("variant"), options.take("centred")
    if variant is None and len(weights.shapes.get("threshold", ())) == 1:
        variant = "jumprelu"  # no other variant has a threshold for each latent
    cls = _VARIANTS.get(variant)
    if variant is None or cls is None:
        unknown = "" if variant is None else f" '{variant}' is none of those{nearest(variant, _VARIANTS)}."
        raise CheckpointError(
            f"{weights.path} holds {', '.join(sorted(weights.shapes))} and no config that a reader knows, so several "
            "SAEs would fit: put the config of its training run beside it, or pass variant= (one of "
            f"{', '.join(_VARIANTS)}), centred= (is b_dec subtracted before the encoder?) and, for top-k, k=.{unknown}"
        )
    if cls in (Standard, StandardUncentred):  # the variant's name says it
        if centred not in (None, cls.Config.centred):
            raise CheckpointError(f"variant='{variant}' means centred={cls.Config.centred}; leave centred out.")
        centred = cls.Config.centred
    if centred is None:
        raise CheckpointError(
            f"Nothing says whether b_dec of {weights.path} is subtracted before the encoder (in JumpReLU SAELens does "
            "so and dictionary_learning does not): pass centred=True or centred=False."
        )
    names = {ours: _name(weights, ours) for ours in _NAMES}
    k = weights.number("k") if "k" in weights else options.take("k") if issubclass(cls.Config, TopK.Config) else None
    if cls is JumpReLU:
        names["threshold"] = "threshold"
    elif k is None and issubclass(cls.Config, TopK.Config):
        raise CheckpointError(f"{weights.path} does not say its k: pass k=.")
    d, m, tensors = weights.sae(names)
    top_k, threshold = selection(cls, k, weights, options)
    config = cls.Config(d, m, centred=centred, **top_k)
    return Plan(cls, config, source_of(where, config, "bare", variant), tensors | threshold)
