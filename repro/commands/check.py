"""`repro check`: an SAE against activations of its own layer and of those beside it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.checkpoints import load_sae
from repro.checkpoints.check import check_sae
from repro.checkpoints.match import Place, match
from repro.commands.flags import Check


def check(config: Check) -> None:
    """Print what `check_sae` finds; exit status 1 where something looks wrong."""
    if not config.acts:
        raise BadInput("Give --acts the activations to check against: a file of `repro collect`, or any [n, d] .npy.")
    sae = load_sae(config.sae, step=config.step)
    own = Place.of_sae(sae)
    x_by_layer: dict[int, Tensor] = {}
    models: set[str] = set()
    for path in config.acts:
        store = open_store(path)
        rows = store.select()
        place = Place.of_data(store.place | rows.describe())
        facts = place.facts()
        layer = facts.get("layer")
        if layer is None and len(config.acts) > 1:
            raise BadInput(f"{path} does not say which layer it is; give only the file of the SAE's own layer.")
        alone = len(config.acts) == 1
        beside = replace(place, layer=own.layer, site=facts.get("site", ""))  # its layer is what is compared
        notes = match(own, place if alone else beside, config.allow_mismatch)
        print(*notes, sep="\n", end="\n" if notes else "")
        key = (layer or 0) if own.layer is None or not alone else own.layer
        x_by_layer[key] = rows.take(config.max_tokens).x
        models.add(place.model)
    report = check_sae(sae, x_by_layer, models.pop() if len(models) == 1 else "")
    print(*report.sentences, sep="\n")
    if not report.ok:
        raise SystemExit(1)
