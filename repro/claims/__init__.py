"""The ledger: each claim of the paper as a test on the tables, with its effect, interval, rule and verdict."""

from repro.claims.effects import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    PART,
    UNTESTED,
    Effect,
    Finding,
    difference,
    sparsest_minus_densest,
)
from repro.claims.paper import CLAIMS, Claim
from repro.claims.verdicts import SCALES, ledger, shown, write

__all__ = [
    "CLAIMS",
    "FAILS",
    "HOLDS",
    "NOT_RUN",
    "OPEN",
    "PART",
    "SCALES",
    "UNTESTED",
    "Claim",
    "Effect",
    "Finding",
    "difference",
    "ledger",
    "shown",
    "sparsest_minus_densest",
    "write",
]
