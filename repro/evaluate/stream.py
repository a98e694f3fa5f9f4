"""Results of a pass over blocks of tokens: sums by group of documents."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from torch import Tensor

from repro.codes import SparseCodes
from repro.metrics import records
from repro.metrics.intervals import jackknife

GROUPS = 20  # of documents, for the jackknife


class TokenSums:
    """Records of all `METRICS` for groups of neighbouring documents, fed block by block in any order."""

    def __init__(self, docs: Tensor):
        n_docs = int(docs.max()) + 1 if len(docs) else 1
        self.group = docs.cpu() * min(GROUPS, n_docs) // n_docs
        self.records: dict[int, dict[str, Any]] = {}

    def add(self, rows: slice | Tensor, x: Tensor, x_hat: Tensor, codes: SparseCodes | None) -> None:
        """Activations x and reconstructions x_hat [b, d] of some rows, and their codes where there are any."""
        group = self.group[rows]
        for g in group.unique().tolist():
            here = (group == g).to(x.device)
            new = records(x[here], x_hat[here], None if codes is None else codes[here])
            old = self.records.get(g)
            self.records[g] = new if old is None else {name: old[name] + new[name] for name in new}

    def groups(self, metric: str) -> list[Any]:
        """The records of one metric, a group of documents each."""
        return [self.records[g][metric] for g in sorted(self.records)]

    def value(self, intervals: bool = True) -> dict[str, float]:
        """Every metric's columns, with jackknife intervals `<name>_low`, `<name>_high` unless switched off."""
        out: dict[str, float] = {}
        for metric in next(iter(self.records.values())):
            groups = self.groups(metric)
            out |= reduce(add, groups).value()
            for name, (low, high) in jackknife(groups).items() if intervals else ():
                out |= {f"{name}_low": low, f"{name}_high": high}
        return out
