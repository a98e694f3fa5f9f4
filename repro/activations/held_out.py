"""The language model behind collected activations, and the text on which reconstructions of them are judged."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from repro.activations.language_models.load import load_model
from repro.activations.language_models.loss import LossMeter
from repro.activations.rows import Rows
from repro.activations.store import ActivationStore
from repro.base.config import ModelConfig
from repro.base.errors import BadInput

ANOTHER = 0.1  # relative distance from which on activations are another model's; rounding to bfloat16 stays below 0.02


def open_meter(rows: Rows, tokens: int, device: str = "auto") -> LossMeter:
    """The loss of the language model that `rows` were collected from, on the first of their sequences.

    Whole sequences are taken until they hold `tokens` tokens: those of which every usable position is among `rows`.
    Raises BadInput where the activations do not say their tokens or model, are not the output of a block, hold no whole
    sequence, or are not what the model computes.
    """
    config, block = model_of(rows)
    store = cast(ActivationStore, rows.store)
    assert store.tokens is not None
    sequences = whole(rows)[: _enough(store, whole(rows), tokens)]
    used = np.zeros(store.mask.shape, bool)
    used.reshape(-1)[rows.index] = True
    model = load_model(config, device)
    meter = LossMeter(
        model,
        block,
        torch.from_numpy(store.tokens[sequences].astype("int64")),
        torch.from_numpy(used[sequences]),
        torch.from_numpy(np.where(store.mask, store.docs, -1)[sequences].astype("int64")),
    )
    here = meter.patched[:1]
    own = model.activations(meter.ids[:1], meter.documents[:1] >= 0)[here.to(model.device)].float().cpu()
    saved = torch.from_numpy(np.array(store.x[sequences[:1]], np.float32))[here]
    if float((own - saved).norm()) > ANOTHER * float(saved.norm()):
        raise BadInput(f"{store.path.name} is not what {config.name} computes of its tokens; collect it again.")
    return meter


def model_of(rows: Rows) -> tuple[ModelConfig, int]:
    """The model to load, and the block whose output the activations are. Nothing is loaded.

    Raises BadInput where the activations do not say it, or are of another site than a block's output.
    """
    store, name = rows.store, rows.store.path.name
    about = store.meta.get("model") or {}
    layer, site = store.meta.get("layer"), store.meta.get("site", "resid_post")
    if store.tokens is None or layer is None or not about.get("name"):
        raise BadInput(f"{name} does not say the tokens and the language model that it comes from.")
    block = layer - (site == "resid_pre")
    if site not in ("resid_post", "resid_pre") or block < 0:
        raise BadInput(
            f"{name} ({site} of block {layer}) is not the output of a block, which a loss can be patched at."
        )
    dtype = about.get("dtype", "auto")
    return ModelConfig(about["name"], layer, site=site, dtype=dtype), block


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
