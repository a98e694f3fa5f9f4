"""Probes and absorption of one row of a table, with their intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.evaluate.data import EvalOptions, Labelled, Tokens
from repro.evaluate.nulls import shuffled_absorption
from repro.metrics import norm_label_of, probe_metrics
from repro.metrics.absorption import AUX
from repro.metrics.intervals import of_probes
from repro.metrics.probing import Blocks


def norm_labels(tokens: Tokens) -> Tensor:
    """1[‖x‖ > median ‖x‖] of all tokens, [n], read block by block."""
    norms = [x.norm(dim=1).cpu() for _, x in tokens.blocks(4096)]
    return norm_label_of(torch.cat(norms) if norms else torch.zeros(0))


def probe_row(
    codes: Blocks, tokens: Tokens, labelled: Labelled | None, held_out: bool, o: EvalOptions
) -> dict[str, float | str]:
    """Probes and absorption, with intervals over documents where they are held out.

    codes: a row a labelled document, pooled (`metrics.pool`), or, without labelled documents, a row a token.
    """
    if labelled is None:
        labels = norm_labels(tokens)
        train, docs, name = torch.arange(len(labels)) < len(labels) // 2, tokens.docs, "norm above median"
        name += ", held out" if held_out else ", in sample"
    else:
        labels, train, name = labelled.labels, labelled.train, " / ".join(labelled.names)
        docs = torch.arange(len(labels))
    values, probes = probe_metrics(codes, labels, train if held_out else None, o.probe_ks)
    out: dict[str, float | str] = {"label": name, **values}
    if held_out:
        for key, (low, high) in of_probes(probes, (1, 2), docs[~train].cpu().numpy()).items():
            out |= {f"{key}_low": low, f"{key}_high": high}
    if o.nulls:
        on = [p.top[torch.from_numpy(p.y == 1), : 1 + AUX] > 0 for p in probes]
        out |= shuffled_absorption(on, seed=o.seed)
    return out
