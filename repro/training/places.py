"""Places: where codes [n, m] may be nonzero in a training step, with products that cost only as much as there are.

A step of a k-sparse SAE needs one dense product, the pre-activations. All others (decode, and the gradients of
codes, atoms and encoder) touch only the selected places: n k d multiplications instead of n m d. `Sparse` does that;
`Dense` is its plain twin with the same methods, faster where more than about a tenth of the codes is selected (and
what early ReLU codes need). Losses are written once against the methods both have; values are tensors of the
layout's own shape (`Dense` [n, m], `Sparse` [places]).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

SPARSE_BELOW = 0.1  # share of selected places under which the sparse products win on a CPU (m = 1,024 to 8,192)

with warnings.catch_warnings():  # torch says once a process that CSR is in beta; only CSR times dense is used here
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], torch.empty(0), (1, 1), check_invariants=False)


class Dense:
    """Every place, or those where mask [n, m] is True."""

    def __init__(self, pre: Tensor, mask: Tensor | None = None):
        self.pre, self.mask = pre, mask

    def read(self, x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """pre = x @ rows.T + bias, which was computed already, with gradients to rows [m, d] and bias [m]."""
        return _ReadDense.apply(x, rows, bias, self.pre)

    def spread(self, v: Tensor) -> Tensor:
        """v [m] or [], one number a latent, in the shape of values."""
        return v

    def keep(self, values: Tensor) -> Tensor:
        """Values with everything outside the places set to 0."""
        return values if self.mask is None else values * self.mask

    def decode(self, values: Tensor, atoms: Tensor) -> Tensor:
        """values @ atoms, [n, d]."""
        return values @ atoms

    def per_latent(self, values: Tensor) -> Tensor:
        """Sum over the tokens, [m]."""
        return values.sum(0)

    def split(self, values: Tensor, sizes: tuple[int, ...]) -> list[tuple[Dense, Tensor]]:
        """Layout and values of each group of neighbouring latents."""
        return [(Dense(v), v) for v in values.split(sizes, dim=1)]


class Sparse:
    """The places whose positions in the flattened [n, m] are `flat`, ascending by token."""

    def __init__(self, pre: Tensor, flat: Tensor):
        n, m = pre.shape
        rows = torch.div(flat, m, rounding_mode="floor")
        self._set(n, m, rows, flat - rows * m)
        self.values = pre.view(-1)[flat]

    def _set(self, n: int, m: int, rows: Tensor, cols: Tensor) -> None:
        self.n, self.m = n, m
        self.cols, self.rows = cols, rows.to(torch.int32)
        self.row_ends = _ends(rows, n)
        self.col_ends = _ends(cols, m)
        small = cols.to(torch.int16 if m < 2**15 else torch.int32)  # radix sort: cheaper on narrow integers
        self.by_latent = torch.sort(small, stable=True).indices
        self.rows_by_latent = self.rows[self.by_latent]

    def times(self, values: Tensor, right: Tensor) -> Tensor:
        """Matrix of values [n, m] @ right [m, d], without gradients."""
        return _csr(self.row_ends, self.cols, values, (self.n, self.m)) @ right

    def transposed_times(self, values: Tensor, right: Tensor) -> Tensor:
        """Matrix of values, transposed [m, n], @ right [n, d], without gradients."""
        return _csr(self.col_ends, self.rows_by_latent, values[self.by_latent], (self.m, self.n)) @ right

    def read(self, x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """pre = x @ rows.T + bias at the places, computed already, with gradients to rows [m, d] and bias [m]."""
        return _ReadSparse.apply(x, rows, bias, self)

    def spread(self, v: Tensor) -> Tensor:
        """v [m] or [], one number a latent, in the shape of values."""
        return v.index_select(0, self.cols) if v.ndim else v

    def keep(self, values: Tensor) -> Tensor:
        """Nothing to do: there are no values outside the places."""
        return values

    def decode(self, values: Tensor, atoms: Tensor) -> Tensor:
        """values @ atoms, [n, d]."""
        return _DecodeSparse.apply(values, atoms, self)

    def per_latent(self, values: Tensor) -> Tensor:
        """Sum over the tokens, [m]."""
        return torch.zeros(self.m, dtype=values.dtype, device=values.device).index_add(0, self.cols, values)

    def split(self, values: Tensor, sizes: tuple[int, ...]) -> list[tuple[Sparse, Tensor]]:
        """Layout and values of each group of neighbouring latents."""
        out: list[tuple[Sparse, Tensor]] = []
        start = 0
        for size in sizes:
            chosen = ((self.cols >= start) & (self.cols < start + size)).nonzero().squeeze(1)
            part = Sparse.__new__(Sparse)
            part._set(self.n, size, self.rows[chosen].long(), self.cols[chosen] - start)
            out.append((part, values.index_select(0, chosen)))
            start += size
        return out


Places = Dense | Sparse


def places_where(pre: Tensor, mask: Tensor, sparse: bool | None = None) -> Places:
    """The places where mask [n, m] is True; sparse None = whichever layout is faster."""
    if _sparse_wins(pre, torch.count_nonzero(mask), sparse):
        return Sparse(pre, mask.view(-1).nonzero().squeeze(1))
    return Dense(pre, mask)


def places_at(pre: Tensor, flat: Tensor, sparse: bool | None = None) -> Places:
    """The places at these positions of the flattened [n, m], ascending by token."""
    if _sparse_wins(pre, len(flat), sparse):
        return Sparse(pre, flat)
    mask = torch.zeros(pre.numel(), dtype=torch.bool, device=pre.device)
    mask[flat] = True
    return Dense(pre, mask.view_as(pre))


def _sparse_wins(pre: Tensor, count: Tensor | int, forced: bool | None) -> bool:
    return forced if forced is not None else not pre.is_cuda and int(count) < SPARSE_BELOW * pre.numel()


def _ends(ids: Tensor, size: int) -> Tensor:
    """Ids -> pointers [size + 1] of a compressed sparse matrix."""
    out = torch.zeros(size + 1, dtype=torch.int32, device=ids.device)
    out[1:] = torch.bincount(ids, minlength=size).cumsum(0)
    return out


def _csr(ends: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(ends, columns.to(torch.int32), values, shape, check_invariants=False)


class _ReadDense(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, bias: Tensor, pre: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return pre.view_as(pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, grad.t() @ x, grad.sum(0), None


class _ReadSparse(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, bias: Tensor, places: Sparse) -> Tensor:
        ctx.save_for_backward(x)
        ctx.places = places
        return places.values.view_as(places.values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, ctx.places.transposed_times(grad, x), ctx.places.per_latent(grad), None


class _DecodeSparse(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, atoms: Tensor, places: Sparse) -> Tensor:
        ctx.save_for_backward(values, atoms)
        ctx.places = places
        return places.times(values, atoms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, atoms = ctx.saved_tensors
        places: Sparse = ctx.places
        grad_values = None
        if ctx.needs_input_grad[0]:
            # embedding_bag's gradient by its weights is the sampled product grad @ atoms.T, without gathered copies
            with torch.enable_grad():
                v = values.detach().requires_grad_()
                bags = torch.nn.functional.embedding_bag(
                    places.cols, atoms.detach(), places.row_ends[:-1].long(), mode="sum", per_sample_weights=v
                )
            (grad_values,) = torch.autograd.grad(bags, v, grad)
        grad_atoms = places.transposed_times(values, grad) if ctx.needs_input_grad[1] else None
        return grad_values, grad_atoms, None
