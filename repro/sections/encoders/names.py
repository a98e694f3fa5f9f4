"""Which encoders and dictionaries the section trains, and what tables and figures call them."""

from __future__ import annotations

from typing import Any

ENCODERS: dict[str, tuple[str, int | None, bool]] = {
    "linear": ("linear", None, False),
    "mlp": ("mlp", None, False),
    "correction": ("correction", None, False),
    "lista1": ("lista", 1, False),
    "lista3": ("lista", 3, False),
    "lista5": ("lista", 5, False),
    "linear_imitation": ("linear", None, True),
    "lista3_imitation": ("lista", 3, True),
}
"""Name -> (form in `training.encoders.FORMS`, LISTA's steps, is it trained to imitate pursuit's codes?)."""
ENCODER_NAMES = {
    "own": "the SAE's own",
    "linear": "linear, trained on",
    "mlp": "MLP",
    "correction": "top-k, one correction",
    "lista1": "LISTA, 1 step",
    "lista3": "LISTA, 3 steps",
    "lista5": "LISTA, 5 steps",
    "linear_imitation": "linear, imitating",
    "lista3_imitation": "LISTA 3, imitating",
}

DICTIONARIES: dict[str, dict[str, Any]] = {
    "trained": {},
    "pursuit": {"codes": "pursuit"},
    "matching_pursuit": {"codes": "matching_pursuit"},
    "itda": {},
    "soft_decoder": {"least_cosine": 0.8},
    "frozen_decoder": {"frozen": ("W_dec",)},
    "frozen_encoder": {"frozen": ("rows", "b_enc")},
    "untrained": {},
}
"""Name -> fields of its `FrozenJob`; those without any are the Top-K SAE, its start, and ITDA."""
GUESSED = ("pursuit", "matching_pursuit", "itda")
"""Dictionaries learned without an encoder: a linear one is trained on them afterwards."""
DICTIONARY_NAMES = {
    "trained": "Top-K SAE",
    "pursuit": "learned by pursuit",
    "matching_pursuit": "MP-SAE",
    "itda": "ITDA (activations)",
    "soft_decoder": "soft-frozen decoder",
    "frozen_decoder": "frozen random decoder",
    "frozen_encoder": "frozen random encoder",
    "untrained": "before training",
}

SPLIT = ("encoder", "encoder_refit", "pursuit")
KINDS = ("encoder", "encoder_refit", "optimum", "optimum_refit", "pursuit", "ompr")
"""Kinds of codes of every dictionary, of `price.words.NAMES`."""
PROBED = {"encoder": "amortized", "pursuit": "pursuit"}
"""Kinds of codes that are probed, and the evaluation's name for them."""
