"""`repro fetch-model`, `fetch-text`, `fetch-sae`: bring what a run needs to this machine."""

from __future__ import annotations

from pathlib import Path

from repro.commands.flags import FetchModel, FetchSae, FetchText


def model(config: FetchModel) -> Path:
    """The folder of a language model."""
    from repro.activations.language_models.fetch import fetch_model

    return fetch_model(**vars(config))


def text(config: FetchText) -> Path:
    """The folder of a text."""
    from repro.activations.text.corpora import fetch_text

    return fetch_text(**vars(config))


def sae(config: FetchSae) -> Path:
    """The folder of released SAEs."""
    from repro.checkpoints.hub import fetch_sae
    from repro.checkpoints.releases import named
    from repro.commands.inputs import say

    if config.variant is None and (one := named(config.repo, config.sae_id)):
        say(*one.notes)
    return fetch_sae(**vars(config))
