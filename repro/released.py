"""The released code's primitives under plain names: numpy or torch in, atoms as columns, nothing computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codes import SparseCodes
from repro.inference import GRID9, GRID_EXP5, grid_lambda, released_codes
from repro.metrics import Firing, Reconstruction, norm_label, probe_metrics
from repro.solvers import Ista, Lasso, solve
from repro.solvers.objective import lipschitz

Array = np.ndarray | Tensor


def _in(a: Array) -> Tensor:
    return torch.as_tensor(a)


def _out(t: Tensor, like: Array) -> Any:
    return t.numpy() if isinstance(like, np.ndarray) else t


def encode_amortized(
    x: Array, w_enc: Array, b_enc: Array | None, variant: str, target_dense: float = 0.1, k: int | None = None
) -> Any:
    """Codes [n, m] of the released encoder, w_enc [d, m]; see `inference.released_codes`."""
    bias = None if b_enc is None else _in(b_enc)
    return _out(released_codes(_in(x), _in(w_enc), bias, variant, target_dense, k), x)


def ista_lasso(
    x: Array, d: Array, lam: float, steps: int, step_size: float | None = None, z0: Array | None = None
) -> Any:
    """`steps` signed ISTA steps on 1/2‖x − D z‖² + lam‖z‖₁, d [d, m] with atoms as columns; step 1/(‖D‖₂² + 1e-6)."""
    atoms = _in(d).T.contiguous()
    step = step_size if step_size is not None else 1 / (lipschitz(atoms) + 1e-6)
    start = None if z0 is None else _in(z0)
    problem = Lasso(_in(x), atoms, lam, nonneg=False)
    return _out(solve(problem, Ista(step), start, steps, tol=None, proof=False).codes.to_dense(), x)


def calibrate_lambda_grid9(x: Array, d: Array, target_dense: float, steps: int = 100) -> float:
    """The comparison scripts' search: nine lambdas from 1e-5 to 1e-1, share of z != 0 after `steps` steps."""
    return grid_lambda(_in(x), _in(d).T.contiguous(), target_dense, GRID9, steps)[0]


def calibrate_lambda_exp5(x: Array, d: Array, target_dense: float, steps: int = 200) -> float:
    """The batch evaluation's search: nine lambdas up to 3e-2, share of z > 0 after steps // 4 of its own ISTA steps."""
    return grid_lambda(_in(x), _in(d).T.contiguous(), target_dense, GRID_EXP5, steps // 4, exp5=True)[0]


def metrics(x: Array, z: Array, d: Array) -> dict[str, float]:
    """NMSE, dead_rate, dense@t, F1@1/2/3/5, dF1 and absorption of codes z [n, m], by the released definitions."""
    xt, codes = _in(x), SparseCodes.from_dense(_in(z))
    out = Reconstruction.of(xt, codes.decode(_in(d).T.contiguous())).value() | Firing.of(codes).value()
    out |= probe_metrics(codes, norm_label(xt), None, (1, 2, 3, 5))[0]
    return {name: out[name] for name in out if name not in ("FVE", "L0", "absorption_null", "r_main")}
