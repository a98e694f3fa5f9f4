"""`repro check`: an SAE against activations of its own layer and of those beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.checkpoints import load_sae
from repro.checkpoints.check import Report, check_sae
from repro.checkpoints.match import Place, match
from repro.commands.flags import Check
from repro.commands.show import show
from repro.metrics.conventions import FORMULAS, by_formula, by_tokens, token_counts
from repro.sae import SAE


def check(config: Check) -> None:
    """Print what `check_sae` finds, and its numbers by every convention; exit status 1 where something looks wrong."""
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
        if key in x_by_layer:
            raise BadInput(f"{path} is of layer {key}, as a file before it is; give one file of each layer.")
        x_by_layer[key] = rows.take(config.max_tokens).x
        models.add(place.model)
    report = check_sae(sae, x_by_layer, models.pop() if len(models) == 1 else "")
    print(*report.sentences, sep="\n")
    _print_variants(sae, x_by_layer, report)
    if not report.ok:
        raise SystemExit(1)


def _print_variants(sae: SAE, x_by_layer: Mapping[int, Tensor], report: Report) -> None:
    """The numbers of the SAE's own layer by every formula in use, by number of tokens, and those of each layer."""
    x = x_by_layer[report.numbers["layer"]].to(sae.W_dec.device, torch.float32)
    rows, x_hat = by_tokens(sae, x, token_counts(len(x)))
    print("\nThe same reconstruction by every formula in use (e = x − x̂; μ, ν: means of x, e)")
    values = by_formula(x, x_hat)
    texts = [dict(zip(("formula", "used by"), words)) for words in FORMULAS.values()]
    table = [{"name": name, "value": values[name], **text} for name, text in zip(FORMULAS, texts)]
    show(table, ("name", "value", "formula", "used by"))
    print("\nL0 and the share of dead latents by number of tokens")
    show(rows, ("tokens", "L0", "dead_rate"))
    if len(report.layers) > 1:
        print("\nLayers: the output of block L is hidden_states[L + 1] of transformers")
        layers = [{"L": number, "hidden_states": number + 1} | found for number, found in report.layers.items()]
        show(layers, ("L", "hidden_states", "FVE", "NMSE", "L0", "norm"))
