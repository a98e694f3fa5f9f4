"""The language model behind collected activations, and the text on which reconstructions of them are judged."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import torch

from repro.activations.language_models.load import load_model
from repro.activations.language_models.loss import LossMeter
from repro.activations.rows import Rows
from repro.activations.store import ActivationStore
from repro.base.config import ModelConfig, Site
from repro.base.errors import BadInput

ANOTHER = 0.1  # relative distance from which on activations are another model's; rounding to bfloat16 stays below 0.02


def open_meter(rows: Rows, tokens: int, device: str = "auto") -> LossMeter:
    """The loss of the language model that `rows` were collected from, on the first of their sequences.

    Whole sequences are taken until they hold `tokens` tokens: those of which every usable position is among `rows`.
    Raises BadInput where the activations do not say their tokens or model, are of no site that `collect` reads, hold no
    whole sequence, or are not what the model computes.
    """
    config = model_of(rows)
    store = cast(ActivationStore, rows.store)
    assert store.tokens is not None
    sequences = whole(rows)[: _enough(store, whole(rows), tokens)]
    used = np.zeros(store.mask.shape, bool)
    used.reshape(-1)[rows.index] = True
    model = load_model(config, device)
    meter = LossMeter(
        model,
        model.layer,
        torch.from_numpy(store.tokens[sequences].astype("int64")),
        torch.from_numpy(used[sequences]),
        torch.from_numpy(np.where(store.mask, store.docs, -1)[sequences].astype("int64")),
        model.site,
    )
    here = meter.patched[:1]
    own = model.activations(meter.ids[:1], meter.documents[:1] >= 0)[here.to(model.device)].float().cpu()
    saved = torch.from_numpy(np.array(store.x[sequences[:1]], np.float32))[here]
    if float((own - saved).norm()) > ANOTHER * float(saved.norm()):
        raise BadInput(f"{store.path.name} is not what {config.name} computes of its tokens; collect it again.")
    return meter


def model_of(rows: Rows) -> ModelConfig:
    """The model to load, with the block and the site that the activations are of. Nothing is loaded.

    Raises BadInput where the activations do not say it, or are of a site that cannot be patched.
    """
    store, name = rows.store, rows.store.path.name
    about = store.meta.get("model") or {}
    layer, site = store.meta.get("layer"), store.meta.get("site", "resid_post")
    if store.tokens is None or layer is None or not about.get("name"):
        raise BadInput(f"{name} does not say the tokens and the language model that it comes from.")
    if site not in get_args(Site):
        raise BadInput(f"{name} is of {site}, where no loss can be measured; it can at {', '.join(get_args(Site))}.")
    return ModelConfig(about["name"], layer, site=site, dtype=about.get("dtype", "auto"))


def whole(rows: Rows) -> np.ndarray:
    """Numbers of the sequences of which every usable position is among the rows, in order."""
    store, about = cast(Any, rows.store), rows.description
    count, length = store.mask.shape
    usable = store.select(about["exclude"], about["max_norm_ratio"]).index
    here, all_of_them = (np.bincount(index // length, minlength=count) for index in (rows.index, usable))
    return np.flatnonzero((here > 0) & (here == all_of_them))


def _enough(store: ActivationStore, sequences: np.ndarray, tokens: int) -> int:
    """How many of the sequences hold `tokens` tokens."""
    if not len(sequences):
        raise BadInput(f"No whole sequence of {store.path.name} is held out; collect more tokens, or use fewer.")
    return int(np.searchsorted(store.mask[sequences].sum(1).cumsum(), tokens)) + 1
