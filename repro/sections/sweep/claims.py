"""Claims that the sweep tests: dead latents after five steps, and an error that falls with every further step."""

from __future__ import annotations

from functools import partial

import numpy as np

from repro.metrics.names import PROTOCOLS
from repro.sections.effects import FAILS, FALLS, HOLDS, UNTESTED, Claim, Effect, Finding, Tables
from repro.sections.ledger import shown


def five_steps(tables: Tables) -> Finding:
    """The test whether five ISTA steps lower the dead rate."""
    table, rates = tables["sweep"], {}
    for protocol in PROTOCOLS:
        part = table[table["protocol"] == protocol]
        rates[protocol] = part.set_index(["sparsity", "steps"])["dead_rate"].unstack("steps")
    released, corrected = (Effect.of((rate[5] - rate[0]).to_numpy()) for rate in rates.values())
    if rates["corrected"][0].mean() < 0.01:
        why = "the real encoder has almost no dead latents, so there is nothing to fix"
        return Finding(released, corrected, UNTESTED, why)
    return Finding(released, corrected, corrected.falls)


def every_step(tables: Tables) -> Finding:
    """The test whether NMSE falls in every interval of the sweep."""
    table, shares = tables["sweep"], []
    for protocol in PROTOCOLS:
        part = table[(table["protocol"] == protocol) & (table["steps"] >= 0)].sort_values("steps")
        falls = [fall for _, line in part.groupby("sparsity") for fall in np.diff(line["NMSE"]) <= 0]
        shares.append(float(np.mean(falls)) if falls else float("nan"))
    released, corrected = (f"falls in {share:.0%} of the intervals" for share in shares)
    return Finding(released, corrected, HOLDS if shares[1] == 1 else FAILS)


SENTENCES = {
    "C6": "A handful of steps is enough, and every further step helps.",
}

CLAIMS = [
    Claim(
        id="C6a",
        statement="Five ISTA steps remove dead latents",
        paper="0.316 → 0",
        needs=("sweep",),
        rule=FALLS + "; untestable if under 1 % are dead before",
        section="52_semi_sweep",
        test=five_steps,
    ),
    Claim(
        id="C6b",
        statement="NMSE falls monotonically with the steps",
        paper="0.477, 0.132, 0.046",
        needs=("sweep",),
        rule="holds if it falls in every interval of the corrected sweep",
        section="52_semi_sweep",
        test=every_step,
    ),
]

verdicts = partial(shown, CLAIMS)
"""The verdicts of these claims at a scale and the others, to be shown in the notebook."""
