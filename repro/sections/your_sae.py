"""Your own SAE: which activations it is judged on, and its rows in the form that the sections' figures read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from repro.base.config import MetricsConfig
from repro.evaluate import EvalData, open_data
from repro.sae import SAE
from repro.sections.scales import Scale
from repro.sections.setup import prepare

if TYPE_CHECKING:
    import pandas as pd


def trained(scale: Scale) -> str:
    """Path of an SAE that the scale trains, for those who have none at hand."""
    return str(prepare(scale).finals("batch_topk")[0]["path"])


def data(scale: Scale, acts: str = "") -> EvalData:
    """Tokens of your activation file (`repro collect`, or a float .npy [n, d]), or those of the scale."""
    if not acts:
        return prepare(scale).data
    return open_data(acts, MetricsConfig(max_tokens=scale.eval_tokens, max_norm_ratio=scale.max_norm_ratio))


def as_table(rows: Iterable[dict[str, Any]], sae: SAE) -> pd.DataFrame:
    """Rows of `evaluate_sae` or `sweep` with the names that the figures group by."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    sparsity = sae.source.sparsity or sae.source.k or float("nan")
    return table.assign(variant=sae.name, sparsity=sparsity, m=sae.config.m, d=sae.config.d).fillna({"sparsity": 0.0})
