"""Your own SAE: the activations it is judged on, and its rows in the form that the sections' figures read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from repro.activations.store import open_store
from repro.base.config import MetricsConfig
from repro.checkpoints.match import Place, match
from repro.evaluate import EvalData, open_data, steps
from repro.inference import Inference
from repro.sae import SAE
from repro.sections.comparison import density_figure
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.start import card
from repro.sections.sweep import step_figure
from repro.sections.tables import tidy
from repro.sections.types import DataFrame


def trained(scale: Scale) -> str:
    """Path of an SAE that the scale trains, for those who have none at hand."""
    return str(prepare(scale).finals("batch_topk")[0]["path"])


def data(scale: Scale, acts: str, sae: SAE, allow_mismatch: bool = False) -> EvalData:
    """Tokens of your activation file (`repro collect`, or a float .npy [n, d]) with its labels, or those of the scale.

    Prints what SAE and activations do not state; BadInput where they contradict each other, unless `allow_mismatch`.
    """
    if acts:
        metrics = MetricsConfig(max_tokens=scale.eval_tokens, max_norm_ratio=scale.max_norm_ratio)
        out = open_data(acts, metrics, acts if open_store(acts).labels is not None else None)
    else:
        out = prepare(scale).data
    for note in match(Place.of_sae(sae), Place.of_data(out.tokens.info), allow_mismatch):
        print(textwrap.fill(note, 80))
    return out


def proof(best: Inference, guess: Inference) -> str:
    """The certificate of the optimum and the bracket of the encoder's loss, in a sentence."""
    assert best.objective is not None and best.gap_upper is not None
    assert guess.objective is not None and guess.gap_lower is not None and guess.gap_upper is not None
    return (
        f"λ = {best.lam:.3g}: optimal codes have {best.codes.l0.double().mean():.1f} nonzeros a token, certified to "
        f"{(best.gap_upper / best.objective).max():.1e} of J; the encoder's lose between {guess.gap_lower.mean():.4g} "
        f"and {guess.gap_upper.mean():.4g} of J = {guess.objective.mean():.4g}."
    )


def sweep(sae: SAE, data: EvalData, scale: Scale, allow_mismatch: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of the semi sweep at the step counts of the scale."""
    return steps.sweep(sae, data, scale.sweep_steps, options(scale, allow_mismatch=allow_mismatch))


def as_table(rows: Iterable[dict[str, Any]], sae: SAE) -> DataFrame:
    """Rows of `evaluate_sae` or `sweep` with the names that the figures group by."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    sparsity = sae.source.sparsity or sae.source.k or float("nan")
    return table.assign(variant=sae.name, sparsity=sparsity, m=sae.config.m, d=sae.config.d).fillna({"sparsity": 0.0})


def overview(table: DataFrame) -> DataFrame:
    """The metrics of each protocol and mode."""
    columns = ["protocol", "mode", "NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "lam"]
    return tidy(table[[c for c in columns if c in table]])
