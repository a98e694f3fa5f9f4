"""An SAE against activations: layer, site, model and units, as configs, manifests and flags state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.checkpoints.locate import as_output
from repro.sae import SAE

ALIASES = {"gpt2-small": "gpt2"}  # as TransformerLens and SAELens call it
UNITS = 1.5  # factor between norms from which on activations are in other units


@dataclass(frozen=True)
class Place:
    """Layer, site, model and typical norm of activations; empty or None where nothing states it."""

    layer: int | None = None
    site: str = ""
    model: str = ""
    norm: float | None = None

    @classmethod
    def of_sae(cls, sae: SAE) -> Place:
        """What an SAE was trained on."""
        source = sae.source
        return cls(source.layer, source.site, source.lm_name, source.extra.get("mean_norm"))

    @classmethod
    def of_data(cls, info: Mapping[str, Any]) -> Place:
        """What activations are, from the facts that `evaluate.open_data` collects of them."""
        return cls(info.get("layer"), info.get("site") or "", info.get("model") or "", info.get("norm_median"))

    def facts(self) -> dict[str, Any]:
        """The known ones by name. The input of a block is the output of the one before it."""
        site, layer = as_output(self.site, self.layer)
        facts = {"layer": layer, "site": site, "model": self.model, "mean norm": self.norm}
        return {name: value for name, value in facts.items() if value not in (None, "")}


def columns(sae: SAE, info: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row: layer, site and model of the activations, and sae_layer, sae_site, sae_model of the SAE."""
    out: dict[str, Any] = {}
    for prefix, place in (("", Place.of_data(info)), ("sae_", Place.of_sae(sae))):
        named = {"layer": place.layer, "site": place.site or None, "model": place.model or None}
        out |= {f"{prefix}{name}": value for name, value in named.items()}
    return out


def same_model(a: str, b: str) -> bool | None:
    """Do two names mean one language model? None where one is an absolute path of another name, which says nothing."""
    names = [name.rstrip("/").rpartition("/")[2].casefold().removeprefix("meta-") for name in (a, b)]
    if len({ALIASES.get(name, name) for name in names}) == 1:
        return True
    return None if Path(a).is_absolute() or Path(b).is_absolute() else False


def contradictions(sae: Place, acts: Place) -> list[str]:
    """Names of the facts that both sides state differently."""
    one, other = sae.facts(), acts.facts()
    out: list[str] = [name for name in ("layer", "site") if name in one and name in other and one[name] != other[name]]
    if sae.model and acts.model and same_model(sae.model, acts.model) is False:
        out.append("model")
    if sae.norm and acts.norm and not 1 / UNITS < acts.norm / sae.norm < UNITS:
        out.append("mean norm")
    return out


def match(
    sae: Place,
    acts: Place,
    allow: bool = False,
    sentence: str = "The SAE was trained on {}, but the activations are of {}",
) -> list[str]:
    """Compare an SAE's place with that of activations -> sentences on what cannot be compared, or was allowed.

    BadInput where they contradict each other, unless `allow`.
    """
    one, other = sae.facts(), acts.facts()
    if names := contradictions(sae, acts):
        sentence = sentence.format(*(", ".join(f"{n} {_shown(facts[n])}" for n in names) for facts in (one, other)))
        if not allow:
            raise BadInput(f"{sentence}: give what belongs together, or allow the mismatch (--allow-mismatch).")
        return [f"{sentence}, as allowed."]
    out = []
    for who, facts, others in (("the SAE", one, other), ("the activation file", other, one)):
        if names := [name for name in ("layer", "site", "model") if name not in facts]:
            stated = ", ".join(f"{name} {others[name]}" for name in names if name in others) or "nothing either"
            out.append(f"Not compared: {who} does not state its {' and '.join(names)} (the other side: {stated}).")
    return out


def _shown(fact: Any) -> str:
    return f"{fact:.3g}" if isinstance(fact, float) else str(fact)
