"""Your own SAE: the activations it is judged on, and its rows in the form that the sections' figures read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from repro.activations.store import open_store
from repro.base.config import MetricsConfig
from repro.checkpoints.match import Place, match
from repro.evaluate import EvalData, open_data
from repro.price.words import NAMES
from repro.sae import SAE
from repro.sections.comparison import density_figure
from repro.sections.price import frontier_figure
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.start import card
from repro.sections.tables import tidy
from repro.sections.types import DataFrame, Figure


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


def modes(result: dict[str, Any]) -> DataFrame:
    """A row a kind of codes of a price, all at the encoder's own L0."""
    import pandas as pd

    columns = ["L0", "NMSE", "NMSE_low", "NMSE_high", "NMSE_of_encoder", "dead_rate", "ms_per_token", "note"]
    table = pd.DataFrame(result["modes"]).T.rename(index=NAMES).rename_axis("codes")
    return tidy(table[[c for c in columns if c in table]].infer_objects())


def frontier(result: dict[str, Any], sae: SAE) -> Figure:
    """The error of each kind of codes against their nonzeros."""
    table = as_table(result["frontier"], sae).assign(seed=0)
    return frontier_figure({"your SAE": table}, "NMSE", sae.name)
