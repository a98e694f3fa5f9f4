"""`repro check`: an SAE against activations of its own layer and of those beside it."""

from __future__ import annotations

from torch import Tensor

from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.checkpoints import load_sae
from repro.checkpoints.check import check_sae
from repro.commands.flags import Check


def check(config: Check) -> None:
    """Print what `check_sae` finds; exit status 1 where something looks wrong."""
    if not config.acts:
        raise BadInput("Give --acts the activations to check against: a file of `repro collect`, or any [n, d] .npy.")
    sae = load_sae(config.sae, step=config.step)
    x_by_layer: dict[int, Tensor] = {}
    models: set[str] = set()
    unlabelled = None
    for path in config.acts:
        store = open_store(path)
        x = store.select().take(config.max_tokens).x
        layer = store.meta.get("layer")
        if layer is not None:
            x_by_layer[int(layer)] = x
        elif len(config.acts) == 1:
            unlabelled = x
        else:
            raise BadInput(f"{path} does not say which layer it is; give only the file of the SAE's own layer.")
        models.add(str(store.meta.get("model", {}).get("name", "")))
    model = models.pop() if len(models) == 1 else ""
    report = check_sae(sae, x_by_layer if unlabelled is None else unlabelled, model)
    print(*report.sentences, sep="\n")
    if not report.ok:
        raise SystemExit(1)
