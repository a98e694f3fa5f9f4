"""The fast solver: a small working set per token, dense products only to find what is missing from it.

Compiled for the CPU here, a token at a time; on a GPU in `working_set_batched`, a block at a time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from repro.base.errors import optional
from repro.codes import SparseCodes
from repro.solvers.base import Solver, State, dense_block, largest_codes
from repro.solvers.objective import CHUNK, Certificate
from repro.solvers.problem import Lasso
from repro.solvers.working_set_batched import BatchedState

GRAM_NUMBERS = 2**28  # Gram matrices of a block that may be kept, in numbers of address space; else built anew


def compiled() -> Any:
    """The compiled passes; BadInput where numba is missing."""
    with optional():
        from repro.kernels.cpu import working_set as coordinate_descent
    return coordinate_descent


def fast_bfloat16() -> bool:
    """Does this CPU multiply bfloat16 matrices in hardware?"""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class Dictionary:
    """What a block of tokens needs of the atoms: scaled atoms, and cheap products r D^T with a proven error.

    |error_j| <= ||r|| beta_j + rho |c_j|: rounding of r and of the result, of atom j, and of the sum (in float32).
    Atoms of extreme norm are divided by a power of two, which changes no digit of any code.
    """

    def __init__(self, atoms: Tensor, low: bool):
        largest = float(atoms.abs().amax())
        exponent = int(torch.tensor(largest).frexp().exponent) if largest > 0 else 0
        self.scale = 2.0**exponent if abs(exponent) > 20 else 1.0
        self.atoms = atoms if self.scale == 1 else atoms / self.scale
        self.low = self.atoms.to(torch.bfloat16 if low else torch.float32)
        unit = 2.0**-8 if low else 2.0**-23
        blocks = list(zip(self.atoms.split(CHUNK), self.low.split(CHUNK)))
        norm = torch.cat([low.double().norm(dim=1) for _, low in blocks])
        lost = torch.cat([(part.double() - low.double()).norm(dim=1) for part, low in blocks])
        beta = (1.01 * ((unit + atoms.shape[1] * 2.0**-23) * norm + lost) + 1e-37).float()
        self.beta = torch.cat([beta, beta.amax().reshape(1)])  # and, last, the largest
        self.rho = unit

    def product(self, r: Tensor) -> Tensor:
        """r [b, d] float64 -> about r D^T, [b, m] float32."""
        return (r.to(self.low.dtype) @ self.low.T).float()


class WorkingState(State):
    """Working sets W [b, cap] with codes U, correlations Q and sizes w [b]; residuals R [b, d] float64; proofs."""

    def __init__(self, problem: Lasso, z0: Tensor | SparseCodes | None, first: int, grow: float, inner: float):
        self.kernels, self.problem, self.first, self.grow, self.inner = compiled(), problem, first, grow, inner
        shared = problem.shared
        if "dictionary" not in shared:
            shared["dictionary"] = Dictionary(problem.atoms, fast_bfloat16())
        self.dictionary: Dictionary = shared["dictionary"]
        b, m, d = problem.n, problem.m, problem.x.shape[1]
        # An optimum needs at most d atoms, so room for 2d is enough; most tokens stay far below 1024.
        self.limit = _whole(min(m, max(1024, 2 * d)))
        self.x, self.nonneg = problem.x, problem.nonneg
        self.lam = torch.as_tensor(problem.lam, dtype=torch.float64).expand(b) / self.dictionary.scale
        warm = largest_codes(problem, z0)
        self.W, self.U = warm.indices, warm.values * self.dictionary.scale
        self.w = (self.U != 0).sum(1)
        cap = min(self.limit, _whole(max(1024, self.W.shape[1])))
        self.W, self.U = (pad(t, (0, cap - t.shape[1])) for t in (self.W, self.U))
        self.Q = torch.zeros_like(self.U)
        self.R = self.x.to(torch.float64, copy=True)
        self.out = torch.zeros(b, 3, dtype=torch.float64)
        self.slot = torch.arange(b)
        self._allocate(b)
        if z0 is not None:
            sets = self.W, self.U, self.Q, self.w, self.R, self.G, self.slot, self.keep_gram
            self._call("begin", self.dictionary.atoms, self.x, *sets)
        self._prove()

    def _allocate(self, b: int) -> None:
        """Gram matrices [slots, cap, cap]; the memory is kept for the next block, and touched only where it is used."""
        cap, dtype = self.W.shape[1], self.x.dtype
        self.keep_gram = b * cap * cap <= GRAM_NUMBERS
        slots = b if self.keep_gram else torch.get_num_threads()
        pool = self.problem.shared.get("gram")
        if pool is None or len(pool) < slots or pool.shape[1] != cap or pool.dtype != dtype:
            self.problem.shared.pop("gram", None)
            zeros = np.zeros((slots, cap, cap), torch.empty(0, dtype=dtype).numpy().dtype)  # torch.zeros touches it all
            pool = self.problem.shared["gram"] = torch.from_numpy(zeros)
        self.G = pool

    def _call(self, name: str, *arguments: Any) -> None:
        """Run a compiled pass over the tokens, every t-th of them in each of t threads."""
        function, threads = getattr(self.kernels, name), min(torch.get_num_threads(), len(self.w))
        arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
        if threads <= 1:
            function(0, 1, *arrays)
            return
        shared = self.problem.shared
        if "executor" not in shared:
            shared["executor"] = ThreadPoolExecutor(torch.get_num_threads())
        list(shared["executor"].map(lambda t: function(t, threads, *arrays), range(threads)))

    def _prove(self) -> None:
        """Correlations C [b, m] of all atoms with the residuals, and from them the certificate of every token."""
        D = self.dictionary
        self.C = D.product(self.R)
        sets = self.W, self.U, self.Q, self.w, self.R
        self._call("prove", D.atoms, D.beta, D.rho, self.x, self.lam, self.nonneg, self.C, *sets, self.out)

    def advance(self) -> None:
        """Enlarge, descend, refresh every working set, then look again."""
        room = ((self.U != 0).sum(1) * self.grow).long().clamp_min(self.first)
        need, cap = min(int((self.w + room).max()), self.limit), self.W.shape[1]
        if need > cap:
            more = min(self.limit, _whole(2 * cap)) - cap
            self.W, self.U, self.Q = (pad(t, (0, more)) for t in (self.W, self.U, self.Q))
            old = self.G[self.slot] if self.keep_gram else None
            b, self.slot = len(self.slot), torch.arange(len(self.slot))
            self._allocate(b)
            if old is not None and self.keep_gram:
                self.G[:b, :cap, :cap] = old
        gap = self.out[:, 2].clone()
        data = self.dictionary.atoms, self.x, self.lam, self.nonneg, self.C
        sets = self.W, self.U, self.Q, self.w, self.R, self.G, self.slot, self.keep_gram
        self._call("advance", *data, *sets, gap, self.first, self.grow, self.inner)
        self._prove()

    def codes(self) -> SparseCodes:
        w = max(1, int(self.w.max()) if len(self.w) else 1)
        codes = SparseCodes.packed(self.U[:, :w], self.W[:, :w], self.problem.m)
        return SparseCodes(codes.values / self.dictionary.scale, codes.indices, codes.m)

    def certificate(self) -> Certificate:
        return Certificate(*self.out.clone().unbind(1))

    def keep(self, rows: Tensor) -> None:
        for name in ("x", "lam", "W", "U", "Q", "w", "R", "C", "out", "slot"):
            setattr(self, name, getattr(self, name)[rows])


def _whole(n: int) -> int:
    """n rounded up to whole vectors, and to an odd number of them, so that rows of G do not share cache sets."""
    return (n + 15) // 16 * 16 + (16 if n > 512 and (n + 15) // 16 % 2 == 0 else 0)


@dataclass(frozen=True)
class WorkingSet(Solver):
    """Working sets grown by violation; coordinate descent on their Gram matrix, conjugate gradients between.

    One step: a dense product residual @ atoms.T for the block (bfloat16 where the CPU multiplies it in hardware; the
    certificate computes exactly, in float64, all correlations that its error bound leaves open), then per token the
    worst violators enter and the restricted problem is solved to `inner` times the gap. After Johnson & Guestrin
    (Blitz, 2015), Massias, Gramfort & Salmon (celer, 2018) and More & Toraldo (1991) for the steps on a face.
    A start z0 enters with its d largest codes of feasible sign: an optimum has at most d nonzeros.
    There is no Gap Safe screening: its radius sqrt(2 gap) stays near or above lam until the pass that finishes a token.
    float32 codes reach relative gaps of about 1e-5; for smaller ones pass float64 x and atoms.
    """

    first: int = 64
    """Atoms that may enter in one step, at least."""
    grow: float = 0.5
    """Atoms that may enter, as a share of the support."""
    inner: float = 0.1
    """Accuracy of the restricted problem, as a share of the gap before the step."""
    batched: bool | None = None
    """The passes for a GPU, in full precision; only on a GPU if not given."""

    name: ClassVar[str] = "working_set"
    check_every: ClassVar[int] = 1
    default_max_steps: ClassVar[int] = 200
    patience: ClassVar[int] = 4

    def block(self, problem: Lasso) -> int:
        if self._batched(problem):
            return max(1, dense_block(problem) // 2)
        return max(1, min(128, 2**21 // problem.m))

    def init(self, problem: Lasso, z0: Tensor | SparseCodes | None = None) -> WorkingState | BatchedState:
        state = BatchedState if self._batched(problem) else WorkingState
        return state(problem, z0, self.first, self.grow, self.inner)

    def _batched(self, problem: Lasso) -> bool:
        return problem.device.type != "cpu" if self.batched is None else self.batched

    def step(self, state: WorkingState | BatchedState) -> None:
        state.advance()
