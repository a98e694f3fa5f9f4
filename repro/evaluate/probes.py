"""Probes and absorption of one row of a table, with their intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.evaluate.data import EvalData, EvalOptions, Tokens
from repro.metrics import norm_label_of, pool, probe_metrics
from repro.metrics.intervals import bootstrap_f1, wilson
from repro.metrics.probing import Blocks


def norm_labels(tokens: Tokens, size: int) -> Tensor:
    """1[‖x‖ > median ‖x‖] of all tokens, [n], read block by block."""
    norms = [x.norm(dim=1).cpu() for _, x in tokens.blocks(size)]
    return norm_label_of(torch.cat(norms) if norms else torch.zeros(0))


def probe_row(data: EvalData, codes: SparseCodes | Blocks, o: EvalOptions) -> dict[str, float | str]:
    """Held-out probes and absorption with intervals.

    codes: of the labelled tokens as SparseCodes, or in blocks with a row a document (`metrics.pool`); where the data
    have no labels, of the tokens.
    """
    if data.labelled is None:
        labels = norm_labels(data.tokens, o.block_of(data.tokens.x.shape[1]))
        train, name = torch.arange(len(labels)) < len(labels) // 2, "norm above median, held out"
    else:
        if isinstance(codes, SparseCodes):
            codes = pool(codes, data.labelled.tokens.docs)
        labels, train, name = data.labelled.labels, data.labelled.train, " / ".join(data.labelled.names)
    values, probes = probe_metrics(codes, labels, train, o.probe_ks)
    out: dict[str, float | str] = {"label": name, **values}
    for key, (low, high) in bootstrap_f1(probes, (1, 2), o.bootstrap, o.seed).items():
        out |= {f"{key}_low": low, f"{key}_high": high}
    low, high = wilson(values["absorption"], sum(int((p.y == 1).sum()) for p in probes))
    return out | {"absorption_low": low, "absorption_high": high}
