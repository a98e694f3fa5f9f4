"""What `precision` means for the products of the operations, and how torch is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PRECISIONS = ("float32", "tf32x3", "tf32", "bf16")
"""Operands in full; as three TF32 products; rounded to 10 bits; rounded to 7 bits. Sums are float32 in all of them."""


@contextmanager
def torch_products(device: torch.device, precision: str) -> Iterator[None]:
    """torch's own products in this precision: TF32 units of a GPU only where they are asked for. A CPU has none."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision in ("tf32", "bf16") else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def operand(a: Tensor, precision: str) -> Tensor:
    """A factor of a product as `precision` sees it. TF32 units multiply bfloat16 numbers exactly."""
    return a.bfloat16().to(a.dtype) if precision == "bf16" else a
