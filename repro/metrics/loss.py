"""Loss of a language model under reconstructions: columns of a row, and what the guess of an SAE's encoder costs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from repro.activations.language_models.loss import PatchedLoss
from repro.base.errors import BadInput
from repro.metrics.intervals import by_document

PRICED = {"NMSE": ("sse", "sxx"), "CE": ("ce", "tokens"), "KL": ("kl", "tokens")}
"""What is decomposed, as the quotient of two sums of `PatchedLoss`."""


def loss_columns(
    loss: PatchedLoss, mean: PatchedLoss | None = None, zero: PatchedLoss | None = None
) -> dict[str, float]:
    """CE, KL, CE_clean, loss_increase and, by each ablation at hand, loss_recovered_mean and loss_recovered_zero.

    Nats a token, and loss_recovered = (CE_ablated − CE) / (CE_ablated − CE_clean): 1 = as the clean model, 0 = as the
    ablation. Each with <name>_low and <name>_high, a 95 % interval over documents, by which losses are paired. Raises
    BadInput for records of different text.
    """
    ablations = {"mean": mean, "zero": zero}
    sums = _paired({"": loss} | {name: record for name, record in ablations.items() if record is not None})

    def columns(total: Mapping[str, Any]) -> dict[str, Any]:
        ce, kl, clean = (total[field] / total["tokens"] for field in ("ce", "kl", "ce_clean"))
        out = {"CE": ce, "KL": kl, "CE_clean": clean, "loss_increase": ce - clean}
        for name in ablations:
            if f"{name}ce" in total:
                worst = total[f"{name}ce"]
                out[f"loss_recovered_{name}"] = np.divide(worst - total["ce"], worst - total["ce_clean"])
        return out

    return by_document(sums, columns)


def price(encoder: PatchedLoss, encoder_refit: PatchedLoss, pursuit: PatchedLoss) -> dict[str, dict[str, float]]:
    """{"NMSE" | "CE" | "KL": values, support, dictionary and share_of_increase}, each with its interval over documents.

    The increase of the encoder over the clean model, in three parts that add up to it:
    values = encoder − encoder_refit, what least squares on the encoder's support buys back;
    support = encoder_refit − pursuit, what another support of as many latents a token buys back;
    dictionary = pursuit − clean, what is left (clean is 0 in NMSE and KL).
    share_of_increase = (encoder − pursuit) / (encoder − clean), the share that the guess makes.
    """
    sums = _paired({"encoder": encoder, "refit": encoder_refit, "pursuit": pursuit})
    return {name: by_document(sums, partial(parts, name)) for name in PRICED}


def parts(name: str, total: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of NMSE, CE or KL from totals named step + field: encoder, refit, pursuit; as in `PatchedLoss`."""
    numerator, denominator = PRICED[name]
    means = [total[f"{step}{numerator}"] / total[f"encoder{denominator}"] for step in ("encoder", "refit", "pursuit")]
    encoder, fitted, pursuit = means
    clean = total["encoderce_clean"] / total["encodertokens"] if name == "CE" else 0.0
    return {
        "values": encoder - fitted,
        "support": fitted - pursuit,
        "dictionary": pursuit - clean,
        "share_of_increase": np.divide(encoder - pursuit, encoder - clean),
    }


def _paired(records: Mapping[str, PatchedLoss]) -> dict[str, np.ndarray]:
    """The sums of several records as one mapping, each name behind its record's. BadInput unless of the same text."""
    first = next(iter(records.values()))
    for record in records.values():
        if not (np.array_equal(record.tokens, first.tokens) and np.array_equal(record.positions, first.positions)):
            raise BadInput("These losses are of different text; measure them with one LossMeter.")
    return {f"{name}{field}": values for name, record in records.items() for field, values in vars(record).items()}
