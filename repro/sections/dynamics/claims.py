"""Claims that the dynamics test: density early on, pathologies along training and with sparsity, and the gap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.metrics.names import PROTOCOLS
from repro.sections.dynamics.words import GAPS, gap_correlations
from repro.sections.effects import (
    FAILS,
    FALLS,
    HOLDS,
    OPEN,
    PART,
    PATHOLOGIES,
    RISES,
    Claim,
    Effect,
    Finding,
    Tables,
    along,
    listed,
    sparsity,
)
from repro.sections.ledger import shown

FEW = "fewer than three trajectories: two rank correlations that happen to agree would pass for certainty"


def early_density(tables: Tables) -> Finding:
    """The test whether Standard checkpoints are very dense early in training, and not only at initialisation."""
    table, counts = along(tables), {}
    for protocol in PROTOCOLS:
        part = table[(table["protocol"] == protocol) & (table["variant"] == "standard")]
        dense = part["dense@0.2"] > 0.66
        early = (part["step"] <= 0.01 * part["step"].max()) & (part["step"] > 0)
        counts[protocol] = int((dense & early).sum()), int((dense & (part["step"] == 0)).sum())
    released, corrected = (f"{a} trained, {b} at initialisation" for a, b in counts.values())
    if counts["corrected"] == (0, 0):
        return Finding(released, corrected, FAILS)
    why = "initialisation: within the first 1 % of training weights have hardly moved"
    return Finding(released, corrected, "holds, explained by initialisation", why)


def along_training(metric: str) -> Callable[[Tables], Finding]:
    """The test whether a metric rises along the training of Standard SAEs."""

    def test(tables: Tables) -> Finding:
        table = along(tables)
        table = table[(table["variant"] == "standard") & (table["step"] > 0)]
        effects = []
        for protocol in PROTOCOLS:
            lines = table[table["protocol"] == protocol].groupby("sparsity")
            effects.append(Effect.of([line["step"].corr(line[metric], method="spearman") for _, line in lines]))
        released, corrected = effects
        if corrected.n < 3:
            return Finding(released, corrected, OPEN, FEW)
        return Finding(released, corrected, corrected.rises)

    return test


def falling_gap(tables: Tables) -> Finding:
    """The test whether the amortization gap falls along training."""
    table, effects = along(tables), []
    for protocol in PROTOCOLS:
        gap = GAPS[protocol]
        part = table[(table["protocol"] == protocol) & (table["step"] > 0)].dropna(subset=[gap])
        lines = [line for _, line in part.groupby(["variant", "sparsity"]) if len(line) > 2]
        effects.append(Effect.of([line["step"].corr(line[gap], method="spearman") for line in lines]))
    released, corrected = effects
    if corrected.n < 3:
        return Finding(released, corrected, OPEN, FEW)
    return Finding(released, corrected, corrected.falls)


def apart_from_the_gap(tables: Tables) -> Finding:
    """The test whether the pathologies do not fall with the gap."""
    effects = {}
    for protocol in PROTOCOLS:
        rho = gap_correlations(along(tables), protocol)
        effects[protocol] = {m: Effect.of(rho.loc[rho["metric"] == m, "rho"]) for m in PATHOLOGIES}
    released, corrected = (listed(of) for of in effects.values())
    if max(e.n for e in effects["corrected"].values()) < 3:
        return Finding(released, corrected, OPEN, FEW)
    follow = [m for m, e in effects["corrected"].items() if e.above]
    if not follow:
        return Finding(released, corrected, HOLDS)
    why = f"{', '.join(follow)} falls with the gap (rank correlation above 0)"
    return Finding(released, corrected, FAILS if len(follow) == len(PATHOLOGIES) else PART, why)


SENTENCES = {
    "C2": "Early in training, Standard SAEs are very dense.",
    "C3": "Absorption and feature splitting grow with training and with sparsity.",
    "C4": "The amortization gap closes in training while the pathologies stay.",
}

_along = partial(Claim, section="43_dynamics", needs=("dynamics",), uses=("trajectories",))
_sparser = partial(Claim, section="43_dynamics", rule=RISES, needs=("comparison",), uses=("trajectories",))

CLAIMS = [
    _along(
        id="C2",
        statement="Early Standard checkpoints are very dense",
        paper="Dense@0.2 > 0.66 at several",
        test=early_density,
        rule="counts Standard checkpoints with Dense@0.2 > 0.66 in the first 1 % of training",
    ),
    _along(
        id="C3a",
        statement="Absorption rises with training (Standard)",
        paper="up to 0.92",
        test=along_training("absorption"),
        rule=RISES,
    ),
    _along(id="C3b", statement="… and ΔF1", paper="up to 0.50", test=along_training("dF1"), rule=RISES),
    _sparser(id="C3c", statement="Absorption rises with sparsity", test=sparsity("absorption")),
    _sparser(id="C3d", statement="… and ΔF1", test=sparsity("dF1")),
    _along(id="C4a", statement="The amortization gap falls in training", test=falling_gap, rule=FALLS),
    _along(
        id="C4b",
        statement="… while dead, dense, absorption and ΔF1 do not follow it",
        test=apart_from_the_gap,
        rule="rank correlation with the gap along each trajectory: holds if no interval lies above 0, in part if some "
        "do, does not hold if all four do",
    ),
]

verdicts = partial(shown, CLAIMS)
"""The verdicts of these claims at a scale and the others, to be shown in the notebook."""
