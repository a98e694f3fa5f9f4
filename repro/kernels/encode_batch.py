"""The largest scores of a whole batch, exactly, without the matrix [n, m]: a threshold from a sample, then a choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from repro.codes import SparseCodes

SAMPLE, ROWS = 2**18, 16  # scores from which the first threshold is taken, and rows of them at least
SLACK = 1.25  # how many more than wanted it should let through; doubled until there are enough


def batch_top_k(x: Tensor, m: int, count: int, above: Callable[[Tensor, float], SparseCodes]) -> SparseCodes:
    """The `count` largest positive scores of all rows of x together; of equal ones the first rows' leftmost.

    above(rows, threshold): codes of the scores above a threshold, as `ops.encode_above` finds them. A threshold that
    lets too few through is lowered and everything is looked at again, so the sample decides only how long it takes.
    """
    n = len(x)
    if n * count == 0:
        return above(x[:0], 0.0) if n == 0 else above(x, math.inf)
    rows = torch.linspace(0, n - 1, min(n, max(ROWS, SAMPLE // m)), device=x.device).long()
    scores = above(x[rows], 0.0).values
    scores = scores[scores > 0]
    slack = SLACK
    while True:
        rank = math.ceil(slack * count * len(rows) / n)
        threshold = float(scores.kthvalue(len(scores) - rank).values) if rank < len(scores) else 0.0
        codes = above(x, threshold)
        if int(codes.l0.sum()) >= count or threshold <= 0:
            return _largest(codes, count)
        slack *= 2


def _largest(codes: SparseCodes, count: int) -> SparseCodes:
    found = codes.values[codes.values > 0]
    if len(found) <= count:
        return codes
    least = found.kthvalue(len(found) - count + 1).values
    tied = codes.values == least
    room = count - int((found > least).sum())
    keep = (codes.values > least) | (tied & (tied.flatten().cumsum(0).view_as(tied) <= room))
    return SparseCodes.packed(torch.where(keep, codes.values, 0), codes.indices, codes.m)
