"""Encoding with selection fused into the product, for the GPU: only candidates are written. Twin: reference.py.

A score above its row's threshold becomes a candidate, one int64: the bits of the positive float32, which sort as it
does, above m - 1 - column, so that the leftmost of equal scores is the larger. The threshold of a top-k is the k-th
largest of every eighth score, less a margin for the rounding of its product: never above the k-th largest of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from repro.kernels.gpu.tile import tile_of, tile_product, tiles
from repro.kernels.pack import pack
from repro.kernels.precision import operand, torch_products

SAMPLE = 8  # one score in so many sets the threshold
MARGIN = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 2e-3, "bf16": 2e-3}  # of the largest score of the sample
NUMBERS = 2**27  # candidates that are held at a time


@triton.jit
def _collect(
    x, W, b, tau, gate, scale, shift, count, keys, n, m, d, room,
    GATED: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    rows, cols = tile_of(n, m, BN, BM)
    pre = tile_product(x, W, rows, cols, n, m, d, PRECISION, BN, BM, BD)
    pre += tl.load(b + cols, mask=cols < m, other=0.0)[None, :]
    least = tl.load(tau + rows, mask=rows < n, other=0.0)
    found = (rows[:, None] < n) & (cols[None, :] < m)
    if GATED:
        found &= pre > tl.load(gate + cols, mask=cols < m, other=0.0)[None, :]
        pre = pre * tl.load(scale + cols, mask=cols < m, other=0.0)[None, :]
        pre += tl.load(shift + cols, mask=cols < m, other=0.0)[None, :]
    found &= pre > least[:, None]
    every = tl.zeros([BN, BM], dtype=tl.int32)
    slot = tl.atomic_add(count + rows[:, None] + every, every + 1, mask=found, sem="relaxed")
    key = (pre.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (m - 1 - cols).to(tl.int64)[None, :]
    tl.store(keys + rows.to(tl.int64)[:, None] * room + slot, key, mask=found & (slot < room))


def _candidates(
    x: Tensor, W: Tensor, b: Tensor, tau: Tensor, room: int, precision: str, gates: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Keys [n, room] in no order, zeros where there are fewer, and how many scores exceed tau [n] (maybe more)."""
    (n, d), m, launch = x.shape, len(W), tiles(precision)
    count = torch.zeros(n, dtype=torch.int32, device=x.device)
    keys = torch.zeros(n, room, dtype=torch.int64, device=x.device)
    if n and m:
        grid = (triton.cdiv(n, launch["BN"]) * triton.cdiv(m, launch["BM"]),)
        _collect[grid](x, W, b, tau, *(gates or (b, b, b)), count, keys, n, m, d, room, GATED=bool(gates), **launch)
    return keys, count


def _read(keys: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Values and columns of candidates; 0 and 0 where there is none."""
    values = (keys >> 32).int().view(torch.float32)
    return values, torch.where(keys > 0, m - 1 - (keys & 0xFFFFFFFF), 0)


def _best(x: Tensor, W: Tensor, b: Tensor, k: int, precision: str) -> Tensor:
    """Keys [n, k] of the k largest positive scores of each row, a block of rows at a time."""
    m = len(W)
    room = min(m, 2 * SAMPLE * k + 128)
    out = torch.zeros(len(x), k, dtype=torch.int64, device=x.device)
    for start in range(0, len(x), max(1, NUMBERS // room)):
        rows = torch.arange(start, min(len(x), start + max(1, NUMBERS // room)), device=x.device)
        tau = torch.zeros(len(rows), device=x.device)
        if room < m:
            with torch_products(x.device, precision):
                left, right = operand(x[rows], precision), operand(W[::SAMPLE], precision)
                best = torch.addmm(b[::SAMPLE], left, right.T).topk(k, dim=1).values
            tau = (best[:, -1] - MARGIN[precision] * best[:, 0].abs()).clamp_min(0)
        keys, count = _candidates(x[rows], W, b, tau, room, precision)
        out[rows] = keys.topk(k, dim=1).values
        again = rows[(count > room) | ((count < k) & (tau > 0))]  # the sample was no sample of this row
        for some in again.split(max(1, NUMBERS // m)):
            keys, _ = _candidates(x[some], W, b, torch.zeros(len(some), device=x.device), m, precision)
            out[some] = keys.topk(k, dim=1).values
    return out


def top_k(
    x: Tensor, W: Tensor, b: Tensor, sizes: Sequence[int], ks: Sequence[int], precision: str
) -> tuple[Tensor, Tensor]:
    """ReLU of the ks[g] largest of each row of x @ W + b in every group g; of equal ones the leftmost."""
    x, rows, m = x.contiguous(), W.T.contiguous(), W.shape[1]
    values, columns, first = [], [], 0
    for part, bias, k in zip(rows.split(list(sizes)), b.split(list(sizes)), ks, strict=True):
        v, c = _read(_best(x, part, bias.contiguous(), k, precision), len(part))
        values.append(v)
        columns.append(c + first)
        first += len(part)
    return pack(torch.cat(values, 1), torch.cat(columns, 1), m)


def above(x: Tensor, W: Tensor, b: Tensor, threshold: float, precision: str) -> tuple[Tensor, Tensor]:
    """The entries of x @ W + b above max(threshold, 0), strictly."""
    return _all(x, W, b, max(threshold, 0.0), precision)


def gated(
    x: Tensor, W: Tensor, b: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """1[p > gate] ReLU(scale p + shift) of p = x @ W + b; gate, scale and shift [m]."""
    return _all(x, W, b, 0.0, precision, (gate.contiguous(), scale.contiguous(), shift.contiguous()))


def _all(
    x: Tensor, W: Tensor, b: Tensor, least: float, precision: str, gates: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Every score above `least`. A second pass where a row has more than 256."""
    x, rows, b, m = x.contiguous(), W.T.contiguous(), b.contiguous(), W.shape[1]
    tau = torch.full((len(x),), least, device=x.device)
    room = min(m, 256)
    keys, count = _candidates(x, rows, b, tau, room, precision, gates)
    most = int(count.max()) if len(count) else 0
    if most > room:
        keys, _ = _candidates(x, rows, b, tau, most, precision, gates)
    return pack(*_read(keys, m), m)
