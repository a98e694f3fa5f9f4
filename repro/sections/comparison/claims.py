"""Claims that the comparison tests: sparsity, refinement at matched density, and amortization as the cause."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.sections.effects import (
    FAMILIES,
    FAMILY_NAMES,
    QUANTITIES,
    Effect,
    Tables,
    by_mode,
    cells,
    changes,
    listed,
    mean_over,
    per_halving,
    refined,
    trained,
)
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding


def sparsity(metric: str, raw: tuple[str, ...] = ()) -> Callable[[Tables], Finding]:
    """The test of what half as many nonzeros do to a metric; `raw`: metrics to be printed beside it."""

    def test(tables: Tables) -> Finding:
        table = trained(tables)
        released = per_halving(tables["comparison"], "absorption" if raw else metric, "as_released")
        beside = {name: per_halving(table, name) for name in raw}
        return Finding(per_halving(table, metric), released, listed(beside))

    return test


def as_released(tables: Tables, mode: str, metric: str, family: str | None = None) -> Effect | str:
    """The released protocol's change by a mode, at whatever density it has."""
    table = tables.get("comparison")
    if table is None:
        return "–"
    if family:
        table = table[table["variant"].isin(FAMILIES[family])]
    return mean_over(changes(table, mode, metric, "as_released"))


def error(mode: str, family: str) -> Callable[[Tables], Finding]:
    """The test whether a mode lowers NMSE at matched L0 for SAEs of a family."""

    def test(tables: Tables) -> Finding:
        gates = refined(tables, mode, "NMSE", "gates")
        why = listed({"gated": gates}) if family == "L1" and gates.n else ""
        return Finding(refined(tables, mode, "NMSE", family), as_released(tables, mode, "NMSE", family), why)

    return test


def same_support(tables: Tables) -> Finding:
    """The test whether the optimum's support is better than the encoder's, with least squares on each."""
    return Finding(refined(tables, "non", "NMSE_refit"))


def beyond_control(mode: str, metric: str) -> Callable[[Tables], Finding]:
    """The test whether a mode lowers a rate beyond what the optimum of a random dictionary does at the same L0."""

    def test(tables: Tables) -> Finding:
        effect, table = refined(tables, mode, metric, against="random_dictionary"), by_mode(tables)
        both = changes(table, mode, metric, against="random_dictionary").index  # the SAEs that have a control
        own, control = (mean_over(changes(table, m, metric).reindex(both)) for m in (mode, "random_dictionary"))
        why = f"of the same SAEs, minus the encoder {own}; a random dictionary {control}"
        level = float(cells(tables["comparison"], "amortized", metric).mean())
        return Finding(effect, as_released(tables, mode, metric), why, level)

    return test


def refinement(mode: str, metric: str) -> Callable[[Tables], Finding]:
    """The test whether a mode lowers a metric of the labelled documents at matched L0."""

    def test(tables: Tables) -> Finding:
        raw = "absorption" if metric == "excess" else metric
        beside = {n: mean_over(changes(by_mode(tables), mode, n)) for n in (RAW if metric == "excess" else ())}
        return Finding(refined(tables, mode, metric), as_released(tables, mode, raw), listed(beside))

    return test


RAW = ("absorption", "absorption_null")
"""What stands beside absorption beyond chance."""

SENTENCES = {
    "C1": "Sparser dictionaries reconstruct worse and leave more latents dead, but not fewer dense.",
    "C5": "Refining the encoder's code lowers error, dead latents, splitting and absorption at matched density.",
    "C8": "Amortized inference is the cause.",
}
LEADS = {
    "C1": "When L0 halves",
    "C5": "At the encoder's L0, refined minus encoder",
    "C8": "At the encoder's L0, certified optimum and pursuit minus encoder, and beyond a random dictionary",
}

_sparser = partial(Claim, section="50_comparison", needs=("comparison",), uses=("trajectories",))
_lowers = partial(Claim, section="50_comparison", claimed="falls", needs=("comparison",))
_beyond = partial(_lowers, needs=("comparison", "controls"), uses=("documents",))
_MODES = {"semi": "30 steps", "non": "the L1 optimum"}


def _error(id: str, mode: str, family: str, paper: str = "–") -> Claim:
    name = f"{_MODES[mode]} ({FAMILY_NAMES[family]})"
    return _lowers(
        id=id,
        statement=f"NMSE falls under {name}",
        metric="NMSE",
        quantity=f"the error of {name}",
        test=error(mode, family),
        uses=("documents",),
        paper=paper,
    )


CLAIMS = [
    *(
        _sparser(
            id=id,
            statement=statement,
            metric=metric,
            claimed="does not fall" if metric == "dense@0.1" else "rises",
            quantity=QUANTITIES[metric],
            test=sparsity(metric),
        )
        for id, metric, statement in (
            ("C1a", "NMSE", "NMSE rises when L0 halves"),
            ("C1b", "dead_rate", "… and the dead rate rises"),
            ("C1c", "dense@0.1", "… and dense latents do not become fewer"),
        )
    ),
    _error("C5a", "semi", "L1"),
    _error("C5b", "semi", "k", paper="1.499 → 0.087"),
    _error("C5c", "non", "L1"),
    _error("C5d", "non", "k"),
    _lowers(
        id="C5h",
        statement="NMSE falls from the encoder's support to the optimum's, with least squares on each",
        metric="NMSE_refit",
        quantity="the error of the optimum's support",
        test=same_support,
    ),
    _beyond(
        id="C5i",
        statement="The dead rate falls under 30 steps, beyond that of a random dictionary's optimum",
        paper="0.307 → 0.022",
        metric="dead_rate",
        quantity="dead latents under 30 steps",
        test=beyond_control("semi", "dead_rate"),
    ),
    _beyond(
        id="C8a",
        statement="The dead rate falls at the optimum, beyond that of a random dictionary's",
        metric="dead_rate",
        quantity="dead latents of the optimum",
        test=beyond_control("non", "dead_rate"),
    ),
    _beyond(
        id="C8b",
        statement="… and the share of dense latents",
        metric="dense@0.1",
        quantity="dense latents of the optimum",
        test=beyond_control("non", "dense@0.1"),
    ),
    _lowers(
        id="C8c",
        statement="… and absorption beyond chance, against the encoder",
        metric="excess",
        quantity="absorption − chance of the optimum",
        test=refinement("non", "excess"),
    ),
    _lowers(
        id="C8d",
        statement="… and ΔF1",
        metric="dF1",
        quantity="ΔF1 of the optimum",
        test=refinement("non", "dF1"),
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
