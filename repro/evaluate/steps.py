"""Codes after so many steps of ISTA and FISTA from the same start, and how long each step took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from repro.codes import SparseCodes


class Clock:
    """Seconds by number of steps, added up over blocks; what is done between two steps is not counted."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    @contextmanager
    def on(self, count: int) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        yield
        self.seconds[count] = self.seconds.get(count, 0.0) + time.perf_counter() - start

    def ms(self, count: int, tokens: Any) -> float:
        """Milliseconds a token up to and with this number of steps."""
        return 1e3 * sum(s for c, s in self.seconds.items() if c <= count) / len(tokens)


def ista(
    target: Any,
    atoms: Any,
    lam: float,
    start: Callable[[], SparseCodes],
    counts: Sequence[int],
    nonneg: bool,
    shared: dict[str, Any],
    clock: Clock,
) -> Iterator[tuple[int, SparseCodes]]:
    """(count, codes after `count` ISTA steps) for rising counts: it has no memory, so 10 steps are 5 more from 5."""
    from repro.solvers import Ista, Lasso, solve

    problem = Lasso(target, atoms, lam, nonneg, shared=shared)
    solver = Ista() if nonneg else Ista(1 / (problem.lipschitz + 1e-6))
    with clock.on(min(counts[0], 0)):
        codes = start()
    before = 0
    for count in counts:
        if count > before:
            with clock.on(count):
                codes = solve(problem, solver, codes, count - before, tol=None, proof=False).codes
        before = count
        yield count, codes


def fista(
    target: Any,
    atoms: Any,
    lam: float,
    start: Callable[[], SparseCodes],
    counts: Sequence[int],
    nonneg: bool,
    shared: dict[str, Any],
    clock: Clock,
) -> Iterator[tuple[int, SparseCodes]]:
    """The same with FISTA, whose momentum must not be cut: one run to the last count, looked at on the way."""
    from repro.solvers import Fista, Lasso, solve

    problem = Lasso(target, atoms, lam, nonneg, shared=shared)
    seen: dict[int, list[SparseCodes]] = {count: [] for count in counts}
    since = time.perf_counter()
    codes = start()

    def look(step: int, rows: Any, state: Any) -> None:
        nonlocal since
        clock.seconds[step] = clock.seconds.get(step, 0.0) + time.perf_counter() - since
        if step in seen:
            seen[step].append(state.codes())
        since = time.perf_counter()

    solve(problem, Fista(), codes, counts[-1], tol=None, proof=False, callback=look)
    for count in counts:
        yield count, SparseCodes.cat(seen[count])
