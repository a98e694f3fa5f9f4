"""Claims that the sweep tests: dead latents after five steps, and an error that falls with further steps."""

from __future__ import annotations

from functools import partial

import numpy as np

from repro.metrics.names import PROTOCOLS
from repro.sections.effects import Effect, Tables, cells, mean_over
from repro.sections.shown import answered, shown
from repro.sections.types import DataFrame, Series
from repro.sections.verdict import Claim, Finding

FEW = 5
"""Steps after which the paper has no dead latents left."""


def at(table: DataFrame, steps: float, metric: str, protocol: str) -> Series:
    """A metric after so many ISTA steps, an SAE each."""
    return cells(table[table["steps"] == steps].assign(mode="semi"), "semi", metric, protocol)


def between(table: DataFrame, protocol: str, metric: str, first: float, last: float) -> Effect:
    """The change of a metric from one number of steps to another at the same λ."""
    change = at(table, last, metric, protocol) - at(table, first, metric, protocol)
    part = table[table["protocol"] == protocol]
    return mean_over(change, tokens=int(part["n_tokens"].max()) if "n_tokens" in part else 0)


def five_steps(tables: Tables) -> Finding:
    """The test whether five ISTA steps lower the dead rate."""
    released, corrected = (between(tables["sweep"], p, "dead_rate", 0, FEW) for p in PROTOCOLS)
    before = at(tables["sweep"], 0, "dead_rate", "corrected").mean()
    return Finding(corrected, released, f"the encoder has a dead rate of {before:.3f}", float(before))


def more_steps(tables: Tables) -> Finding:
    """The test whether NMSE falls from five steps to the last of the sweep."""
    table = tables["sweep"]
    last = table["steps"].max()
    released, corrected = (between(table, p, "NMSE", FEW, last) for p in PROTOCOLS)
    part = table[(table["protocol"] == "corrected") & (table["steps"] >= 0)].sort_values("steps")
    falls = [fall for _, line in part.groupby("sparsity") for fall in np.diff(line["NMSE"]) <= 0]
    why = f"falls in {np.mean(falls):.0%} of the intervals between neighbouring numbers of steps"
    return Finding(corrected, released, why)


SENTENCES = {"C6": "A handful of steps is enough, and every further step helps."}
LEADS = {"C6": "ISTA steps from the encoder's code, at one λ"}

_steps = partial(Claim, section="52_semi_sweep", claimed="falls", needs=("sweep",))
CLAIMS = [
    _steps(
        id="C6a",
        statement="Five ISTA steps lower the dead rate",
        paper="0.316 → 0",
        metric="dead_rate",
        quantity="the dead rate in five steps",
        test=five_steps,
    ),
    _steps(
        id="C6b",
        statement="NMSE falls further from five steps to the last",
        paper="0.477, 0.132, 0.046",
        metric="NMSE",
        quantity="the error from five steps to the last",
        test=more_steps,
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
