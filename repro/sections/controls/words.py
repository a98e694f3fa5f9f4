"""The controls in tables: means beside the learned codes, and the differences over documents."""

from __future__ import annotations

from repro.sections.controls.documents import ALL
from repro.sections.tables import tidy
from repro.sections.types import DataFrame

CODES_BY = {
    "amortized": "encoder",
    "encoder_refit": "encoder's support, least squares",
    "semi": "30 ISTA steps",
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


def overview(table: DataFrame, controls: DataFrame) -> DataFrame:
    """Means over SAEs, a row for each way to find codes, learned ones and controls together."""
    columns = ["NMSE", "NMSE_refit", "FVE", "L0", "dead_rate", "dense@0.1", "F1@1", "dF1", "absorption"]
    means = together(table, controls).groupby("codes")[columns].mean()
    return tidy(means.reindex([name for name in CODES_BY.values() if name in means.index]))


def documents_overview(table: DataFrame) -> DataFrame:
    """The rows over all SAEs, and how many SAEs change beyond doubt by themselves."""
    whole = table[table["variant"] == ALL].set_index(["metric", "mode"])
    alone = table[table["variant"] != ALL]
    keys = [alone["metric"], alone["mode"]]
    whole = whole.assign(lowered=(alone["high"] < 0).groupby(keys).sum(), raised=(alone["low"] > 0).groupby(keys).sum())
    columns = ["encoder", "refined", "difference", "low", "high", "saes", "lowered", "raised", "documents", "tokens"]
    return tidy(whole[columns])
