"""The frontier: error against L0 at eight values around the encoder's, for each kind of codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from repro.evaluate.engine import Evaluation
from repro.price import codes
from repro.price.codes import Method
from repro.sae import SAE

FACTORS = tuple(2 ** (i / 2) for i in range(-4, 4))
"""Of the encoder's L0."""
ROUNDS = (1, 2, 4, 8)
"""Of replacement, from the encoder's support at its own L0."""

Point = tuple[str, dict[str, int], Callable[[], Method]]
"""Kind of codes, what is set (k or rounds), and the method, made when its point is computed."""


def values_of_k(job: Evaluation) -> list[int]:
    """Eight numbers of latents around the encoder's L0, none above half the dimensions."""
    most = max(1, min(job.sae.config.d // 2, job.sae.config.m - 1))
    return sorted({min(max(1, round(factor * job.target_l0)), most) for factor in FACTORS})


def _refitted(make: Callable[..., Method], *args: Any) -> Method:
    return codes.refitted(make(*args))


def points(job: Evaluation, random: SAE, shared: dict[str, Any]) -> list[Point]:
    """All points; those of the random dictionary, with what is `shared` between them, last."""
    sae, own = job.sae, codes.encoder(job.sae)
    out: list[Point] = [("encoder", {}, lambda: own), ("encoder_refit", {}, partial(codes.refitted, own))]
    for k in values_of_k(job):
        kinds: dict[str, Callable[[], Method]] = {
            "encoder": partial(codes.encoder_at, sae, k, job.sample),
            "encoder_refit": partial(_refitted, codes.encoder_at, sae, k, job.sample),
            "optimum": partial(codes.optimum, job, k),
            "optimum_refit": partial(_refitted, codes.optimum, job, k),
            "pursuit": partial(codes.pursued, sae, job.shared, k),
            "ompr": partial(codes.pursued, sae, job.shared, k, "ompr"),
        }
        out += [(kind, {"k": k}, make) for kind, make in kinds.items()]
    out += [("ompr", {"rounds": r}, partial(codes.pursued, sae, job.shared, None, "ompr", r)) for r in ROUNDS]
    return out + [("random_dictionary", {"k": k}, partial(codes.pursued, random, shared, k)) for k in values_of_k(job)]
