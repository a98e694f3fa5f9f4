"""The largest scores of a whole batch, exactly, without the matrix [n, m]: a threshold from a sample, then a choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from repro.kernels.pack import pack

SAMPLE, ROWS = 2**18, 16  # scores from which the first threshold is taken, and rows of them at least
SLACK = 1.25  # how many more scores than asked for the threshold should let through; doubled until there are enough

Above = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def batch_top_k(x: Tensor, m: int, count: int, above: Above) -> tuple[Tensor, Tensor]:
    """Values and columns of the `count` largest positive scores of all rows; of equal ones the first rows' leftmost.

    above(rows, threshold): values and columns of the scores above a threshold. One that lets too few through is lowered
    and everything is looked at again, so the sample decides only how long it takes.
    """
    n = len(x)
    if n * count == 0:
        return above(x[:0], 0.0) if n == 0 else above(x, math.inf)
    rows = torch.linspace(0, n - 1, min(n, max(ROWS, SAMPLE // m)), device=x.device).long()
    scores, _ = above(x[rows], 0.0)
    scores = scores[scores > 0]
    slack = SLACK
    while True:
        rank = math.ceil(slack * count * len(rows) / n)
        threshold = float(scores.kthvalue(len(scores) - rank).values) if rank < len(scores) else 0.0
        values, columns = above(x, threshold)
        if int((values != 0).sum()) >= count or threshold <= 0:
            return _largest(values, columns, count, m)
        slack *= 2


def _largest(values: Tensor, columns: Tensor, count: int, m: int) -> tuple[Tensor, Tensor]:
    positive = values[values > 0]
    if len(positive) <= count:
        return values, columns
    least = positive.kthvalue(len(positive) - count + 1).values
    tied = values == least
    room = count - int((positive > least).sum())
    selected = (values > least) | (tied & (tied.flatten().cumsum(0).view_as(tied) <= room))
    return pack(torch.where(selected, values, 0), columns, m)
