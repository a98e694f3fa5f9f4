"""Choice of the implementation of an operation, and the two operations that codes themselves need: decode, nonzeros."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from repro.base.errors import BadInput, nearest, optional

IMPLEMENTATIONS = {
    "prox_step": ("torch", "triton"),
    "encode": ("torch", "numba", "triton"),
    "decode": ("torch", "numba", "triton"),
    "firing_stats": ("torch", "numba", "triton"),
    "nonzeros": ("torch", "numba"),
    "coordinate_descent": ("torch", "triton"),
}
"""What each operation has. A product with a pass after it needs no numba; the compiled solver of a CPU has a coordinate
descent of its own (cpu/working_set.py)."""

MODULES = {"torch": "reference", "numba": "cpu.{}", "triton": "gpu.{}"}
"""Modules of repro.kernels that hold them, {} being the operation."""

DOUBLE = ("decode", "firing_stats", "coordinate_descent")
"""Operations that impl="triton" also takes in float64, which has no tensor cores in Triton."""


def kernel(operation: str, impl: str, *tensors: Tensor) -> Any:
    """The module with this implementation of an operation; BadInput if it is missing or cannot take these tensors."""
    device, dtypes = tensors[0].device.type, {t.dtype for t in tensors}
    have = IMPLEMENTATIONS[operation]
    if impl == "auto":
        impl = "torch"
        if device == "cuda" and dtypes == {torch.float32} and importlib.util.find_spec("triton"):
            impl = "triton"
        elif device == "cpu" and dtypes <= {torch.float32, torch.float64} and importlib.util.find_spec("numba"):
            impl = "numba" if "numba" in have else "torch"
    if impl not in have:
        raise BadInput(f"{operation} has no impl '{impl}'{nearest(impl, have)}; there are auto, {', '.join(have)}.")
    if impl == "triton":
        _check_triton(operation, device, dtypes)
    if impl == "numba" and (device != "cpu" or not dtypes <= {torch.float32, torch.float64}):
        raise BadInput(f"impl='numba' takes float32 or float64 on the CPU, not {_named(dtypes)} on {device}.")
    with optional():
        return importlib.import_module("repro.kernels." + MODULES[impl].format(operation))


def _check_triton(operation: str, device: str, dtypes: set[torch.dtype]) -> None:
    interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false")
    if device != "cuda" and not interpreted:
        raise BadInput(
            f"impl='triton' needs tensors on a GPU, not on {device}: move them there, or set TRITON_INTERPRET=1 before "
            "Python starts to interpret the kernels slowly."
        )
    wide = {torch.float32, torch.float64} if operation in DOUBLE else {torch.float32}
    if not dtypes <= wide:
        raise BadInput(f"impl='triton' takes {_named(wide)} in {operation}, not {_named(dtypes)}; use .float().")


def _named(dtypes: set[torch.dtype]) -> str:
    return " or ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))


def decode(values: Tensor, indices: Tensor, atoms: Tensor, *, impl: str = "auto") -> Tensor:
    """x_hat [n, d] = sum over the k slots of values [n, k] * atoms[indices [n, k]]; atoms [m, d].

    With gradients to values and atoms. Values take the dtype of the atoms; indices (int64) must lie in 0..m-1, which
    a GPU does not check. On a GPU the gradient of an atom that fires often is summed in no fixed order.
    """
    if values.shape != indices.shape or values.ndim != 2 or atoms.ndim != 2:
        raise BadInput(
            f"values {list(values.shape)}, indices {list(indices.shape)} and atoms {list(atoms.shape)} must be [n, k], "
            "[n, k] and [m, d]."
        )
    if not indices.is_cuda and indices.numel():
        low, high = (int(i) for i in indices.aminmax())
        if low < 0 or high >= len(atoms):
            raise BadInput(
                f"indices from {low} to {high} do not fit {len(atoms)} atoms; decode codes with the dictionary that "
                "they were made for."
            )
    values = values.to(atoms.dtype)
    module = kernel("decode", impl, values, atoms)
    if hasattr(module, "decode"):
        return module.decode(values, indices, atoms)
    return _Decode.apply(values, indices, atoms, module)


class _Decode(torch.autograd.Function):
    """decode with the gradients that a kernel module brings along."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, atoms: Tensor, module: Any) -> Tensor:
        ctx.save_for_backward(values, indices, atoms)
        ctx.module = module
        return module.forward(values, indices, atoms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, atoms = ctx.saved_tensors
        to_values = ctx.module.backward_values(grad, indices, atoms) if ctx.needs_input_grad[0] else None
        to_atoms = ctx.module.backward_atoms(grad, values, indices, len(atoms)) if ctx.needs_input_grad[2] else None
        return to_values, None, to_atoms, None


@torch.no_grad()
def nonzeros(z: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Values and columns [n, k] of the nonzeros of dense codes z [n, m], padded with 0; k = the largest count, or 1."""
    if z.ndim != 2:
        raise BadInput(f"z must be [n, m], not {list(z.shape)}.")
    return kernel("nonzeros", impl, z).nonzeros(z)
