"""The semi sweep: codes after so many steps of ISTA and FISTA from the same start, their metrics, and their cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.checkpoints.match import Place, match
from repro.codes import SparseCodes
from repro.evaluate.data import EvalData, EvalOptions
from repro.evaluate.engine import Evaluation
from repro.evaluate.rules import AS_RELEASED, CORRECTED
from repro.inference import ista_of
from repro.sae import SAE
from repro.solvers import Fista, Lasso, solve


class Clock:
    """Seconds by number of steps, added up over blocks; the time between two steps is not counted."""

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
    problem: Lasso, start: Callable[[], SparseCodes], counts: Sequence[int], clock: Clock
) -> Iterator[tuple[int, SparseCodes]]:
    """(count, codes after `count` ISTA steps) for rising counts: it has no memory, so 10 steps are 5 more from 5."""
    solver = ista_of(problem, released=not problem.nonneg)
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
    problem: Lasso, start: Callable[[], SparseCodes], counts: Sequence[int], clock: Clock
) -> Iterator[tuple[int, SparseCodes]]:
    """The same with FISTA, whose momentum must not be cut: one run to the last count, looked at on the way."""
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


def sweep(
    sae: SAE,
    data: EvalData,
    steps: Sequence[int],
    options: EvalOptions,
    momentum: bool = False,
    bar: tqdm[Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one SAE: protocol, steps, solver, metrics and the cost of the codes. lambda is calibrated once:
    as_released by the grid of nine, corrected to the encoder's L0 after 30 ISTA steps. `momentum`: FISTA's rows too.

    cost: in encoder passes, 1 + 2 k for k steps, as a step is two products of the encoder's size.
    flops_per_token: 2 d m a product, so 2 d m (1 + 2 k); what is linear in d or m is left out, and so is decoding. Of
    the optimum: 2 d m a pass over the dictionary; coordinate descent inside the working set is not counted.
    ms_per_token: measured, encoder included, on blocks of the evaluation tokens.
    bar: counts tokens; as released, corrected, with momentum, and the optimum are a pass each.
    """
    match(Place.of_sae(sae), Place.of_data(data.tokens.info), options.allow_mismatch)
    counts, options = sorted(set(steps)), dataclasses.replace(options, refit=False)
    yield from _walked(Evaluation(sae, data, AS_RELEASED, options, bar), "as_released", "ista", counts)
    job = Evaluation(sae, data, CORRECTED, options, bar)
    try:
        job.lam("semi")
    except BadInput as error:
        yield {"protocol": "corrected", "note": str(error)}
        return
    for solver in ("ista", "fista") if momentum else ("ista",):
        yield from _walked(job, "corrected", solver, counts)
    yield _certified(job)


def flops(passes: float, sae: SAE) -> float:
    """FLOPs of so many products of one token with the dictionary, or with the encoder."""
    return passes * 2 * sae.config.d * sae.config.m


def _walked(job: Evaluation, protocol: str, solver: str, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows of one solver: metrics after so many steps."""
    lam, walk, clock = job.lam("semi"), {"ista": ista, "fista": fista}[solver], Clock()

    def codes(x: Any, rows: slice | None) -> Iterator[SparseCodes]:
        timed = Clock() if rows is None else clock
        for _, z in walk(job.problem(x, "semi"), partial(job.reading.encode_sparse, x), counts, timed):
            yield z

    for count, metrics in zip(counts, job.measure(codes, len(counts)), strict=True):
        passes = 1 + 2 * count
        yield {
            "protocol": protocol,
            "steps": count,
            "cost": passes,
            "lam": lam,
            "n_tokens": len(job.tokens),
            "solver": solver,
            "flops_per_token": flops(passes, job.sae),
            "ms_per_token": clock.ms(count, job.tokens),
            **metrics,
        }


def _certified(job: Evaluation) -> dict[str, Any]:
    """The row of the certified optimum at the lambda of the steps."""
    products, clock = 0, Clock()

    def codes(x: Any, rows: slice | None) -> Iterator[SparseCodes]:
        nonlocal products
        with (Clock() if rows is None else clock).on(-1):
            solution = solve(job.problem(x, "semi"), tol=job.o.tol)
        if rows is not None:
            products += int(solution.steps.sum()) * (1 if solution.solver == "working_set" else 2)
        yield solution.codes

    (metrics,) = job.measure(codes)
    n = len(job.tokens)
    cost = {"flops_per_token": flops(products / n, job.sae), "ms_per_token": clock.ms(-1, job.tokens)}
    about = {"protocol": "corrected", "lam": job.lam("semi"), "n_tokens": n, "steps": -1, "solver": "certified"}
    return {**about, **cost, **metrics}
