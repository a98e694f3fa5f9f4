"""The controls in tables: means beside the learned codes, and the differences over documents."""

from __future__ import annotations

from collections.abc import Mapping

from repro.sections.controls.documents import ALL
from repro.sections.tables import tidy
from repro.sections.types import DataFrame

CODES_BY = {
    "amortized": "encoder",
    "encoder_refit": "encoder's support, least squares",
    "semi": "30 ISTA steps",
    "semi_same_lambda": "30 ISTA steps at the optimum's λ",
    "non": "certified optimum",
    "pursuit": "pursuit at the encoder's k",
    "pca": "PCA, rank = L0",
    "random_encoder": "random encoder, top-k",
    "random_dictionary": "random dictionary, optimum",
}


def together(table: DataFrame, controls: DataFrame) -> DataFrame:
    """Corrected rows of the comparison and of the controls, with `codes`: how they were found, in words."""
    import pandas as pd

    both = pd.concat([table[table["protocol"] == "corrected"], controls], ignore_index=True)
    return both.assign(codes=both["mode"].map(CODES_BY))


def overview(tables: Mapping[str, DataFrame], controls: Mapping[str, DataFrame]) -> DataFrame:
    """Means over SAEs, a row a language model and way to find codes, learned ones and controls together."""
    import pandas as pd

    columns = ["NMSE", "NMSE_refit", "FVE", "L0", "dead_rate", "dense@0.1", "F1@1", "dF1", "absorption"]
    parts = {}
    for model, free in controls.items():
        means = together(tables[model], free).groupby("codes")[columns].mean()
        parts[model] = means.reindex([name for name in CODES_BY.values() if name in means.index])
    return tidy(pd.concat(parts, names=["language model"]))


def documents_overview(tables: Mapping[str, DataFrame]) -> DataFrame:
    """The rows over all SAEs of each language model, and how many SAEs change beyond doubt by themselves."""
    import pandas as pd

    columns = ["encoder", "refined", "difference", "low", "high", "saes", "lowered", "raised", "documents", "tokens"]
    parts = {}
    for model, table in tables.items():
        whole = table[table["variant"] == ALL].set_index(["metric", "mode"])
        alone = table[table["variant"] != ALL]
        keys = [alone["metric"], alone["mode"]]
        lowered, raised = (alone["high"] < 0).groupby(keys).sum(), (alone["low"] > 0).groupby(keys).sum()
        parts[model] = whole.assign(lowered=lowered, raised=raised)[columns]
    return tidy(pd.concat(parts, names=["language model"]))
