"""Encoding and selection in plain torch, one block of rows at a time; only the block's pre-activations are dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.kernels.nonzeros_torch import nonzeros
from repro.kernels.precision import operand, torch_products

NUMBERS = {"cpu": 2**22, "cuda": 2**28}
"""Pre-activations that are held at a time: what a CPU's cache holds, what keeps a GPU busy; 256 rows at least."""

Select = Callable[[Tensor], tuple[Tensor, Tensor]]


def in_blocks(x: Tensor, W: Tensor, b: Tensor, precision: str, select: Select) -> tuple[Tensor, Tensor]:
    """`select` on blocks of x @ W + b; blocks of different width are padded with zeros."""
    m = W.shape[1]
    block, parts = max(256, NUMBERS.get(x.device.type, 2**22) // m), []
    pre = torch.empty(min(block, len(x)), m, dtype=x.dtype, device=x.device)
    with torch_products(x.device, precision):
        x, W = operand(x, precision), operand(W, precision)
        for start in range(0, max(len(x), 1), block):
            rows = x[start : start + block]
            parts.append(select(torch.mm(rows, W, out=pre[: len(rows)]).add_(b)))
    width = max(v.shape[1] for v, _ in parts)
    values, indices = (
        torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in ps]) for ps in zip(*parts)
    )
    return values, indices


def top_k(
    x: Tensor, W: Tensor, b: Tensor, sizes: Sequence[int], ks: Sequence[int], precision: str
) -> tuple[Tensor, Tensor]:
    """ReLU of the ks[g] largest of each row of x @ W + b in every group g of neighbouring latents."""

    def select(pre: Tensor) -> tuple[Tensor, Tensor]:
        values, columns, first = [], [], 0
        for part, size, k in zip(pre.split(list(sizes), 1), sizes, ks, strict=True):
            best = part.topk(k, dim=1, sorted=False)
            values.append(best.values.relu())
            columns.append(best.indices + first)
            first += size
        codes = SparseCodes.packed(torch.cat(values, 1), torch.cat(columns, 1), pre.shape[1])
        return codes.values, codes.indices

    return in_blocks(x, W, b, precision, select)


def above(x: Tensor, W: Tensor, b: Tensor, threshold: float, precision: str) -> tuple[Tensor, Tensor]:
    """The entries of x @ W + b above max(threshold, 0), strictly."""
    return in_blocks(x, W, b, precision, lambda pre: nonzeros(torch.where(pre > max(threshold, 0.0), pre, 0)))


def gated(
    x: Tensor, W: Tensor, b: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """1[p > gate] ReLU(scale p + shift) of p = x @ W + b; gate, scale and shift [m]."""
    return in_blocks(x, W, b, precision, lambda pre: nonzeros((pre > gate) * (scale * pre + shift).relu_()))
