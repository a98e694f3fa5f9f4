"""One tile of a product a @ b.T in Triton, which the fused kernels share, and the shape of the tiles."""

from __future__ import annotations

import os
from typing import Any

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false"))

# Rows, columns, depth, warps, pipeline stages. FMA units (ieee) want small tiles, tensor cores large ones.
TILES = {
    "ieee": (128, 128, 16, 8, 3),
    "tf32x3": (128, 128, 32, 8, 2),
    "tf32": (128, 128, 32, 8, 4),
    "bf16": (128, 128, 32, 8, 4),
}


def tiles(precision: str) -> dict[str, Any]:
    """The arguments of a launch that `tile_product` needs; small tiles in the interpreter: several a test."""
    name = "ieee" if precision == "float32" else precision
    bn, bm, bd, warps, stages = (16, 16, 16, 4, 1) if INTERPRETED.value else TILES[name]
    return {"PRECISION": name, "BN": bn, "BM": bm, "BD": bd, "num_warps": warps, "num_stages": stages}


@triton.jit
def tile_of(n, m, BN: tl.constexpr, BM: tl.constexpr):
    """Rows and columns of this program's tile. Eight tiles of rows take turns, to share columns in the cache."""
    pid = tl.program_id(0)
    down, across = tl.cdiv(n, BN), tl.cdiv(m, BM)
    band = pid // (8 * across)
    height = tl.minimum(down - 8 * band, 8)
    within = pid - band * 8 * across
    rows = (8 * band + within % height) * BN + tl.arange(0, BN)
    cols = (within // height) * BM + tl.arange(0, BM)
    return rows, cols


@triton.jit
def tile_product(
    a, b, rows, cols, n, m, d, PRECISION: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr
):
    """a[rows] @ b[cols].T, [BN, BM] float32, with a [n, d] and b [m, d] contiguous; zero outside."""
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    left_at = a + rows.to(tl.int64)[:, None] * d
    right_at = b + cols.to(tl.int64)[None, :] * d
    for start in range(0, d, BD):
        depth = start + tl.arange(0, BD)
        left = tl.load(left_at + depth[None, :], mask=(rows[:, None] < n) & (depth[None, :] < d), other=0.0)
        right = tl.load(right_at + depth[:, None], mask=(cols[None, :] < m) & (depth[:, None] < d), other=0.0)
        if PRECISION == "bf16":
            left, right = left.to(tl.bfloat16), right.to(tl.bfloat16)
            if INTERPRETED:  # its product of bfloat16 operands is wrong
                left, right = left.to(tl.float32), right.to(tl.float32)
            acc = tl.dot(left, right, acc)
        else:
            acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc
