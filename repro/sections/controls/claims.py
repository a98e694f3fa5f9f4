"""Claims that the controls test: refinement under the encoder's own constraint, and least squares on its support."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.sections.comparison.claims import beyond_control, refinement
from repro.sections.effects import FAMILY_NAMES, Tables, by_mode, cells, mean_over, refined
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding


def pursued(family: str) -> Callable[[Tables], Finding]:
    """The test whether pursuit of as many latents as the encoder takes, without an L1 term, lowers NMSE."""

    def test(tables: Tables) -> Finding:
        whole = refined(tables, "pursuit", "NMSE")
        return Finding(refined(tables, "pursuit", "NMSE", family), why=f"all variants {whole}")

    return test


def refitted(tables: Tables) -> Finding:
    """The test whether least squares on the encoder's own support lowers its NMSE."""
    table = by_mode(tables)
    change = cells(table, "amortized", "NMSE_refit") - cells(table, "amortized", "NMSE")
    tokens = int(table["n_tokens"].max()) if "n_tokens" in table else 0
    return Finding(mean_over(change, tokens=tokens))


_lowers = partial(Claim, section="51_controls", claimed="falls", needs=("comparison", "controls"))

CLAIMS = [
    *(
        _lowers(
            id=id,
            statement=f"NMSE falls under pursuit ({FAMILY_NAMES[family]}): the encoder's own k, no L1 term",
            metric="NMSE",
            quantity=f"the error of pursuit ({FAMILY_NAMES[family]})",
            test=pursued(family),
            uses=("documents",),
        )
        for id, family in (("C5e", "L1"), ("C5f", "k"))
    ),
    _lowers(
        id="C5g",
        statement="NMSE falls by least squares on the encoder's own support",
        metric="NMSE",
        quantity="the error of least squares on the encoder's support",
        test=refitted,
    ),
    _lowers(
        id="C8e",
        statement="The dead rate falls under pursuit, beyond that of a random dictionary's optimum",
        metric="dead_rate",
        quantity="dead latents of pursuit",
        test=beyond_control("pursuit", "dead_rate"),
        uses=("documents",),
    ),
    _lowers(
        id="C8f",
        statement="… and the share of dense latents",
        metric="dense@0.1",
        quantity="dense latents of pursuit",
        test=beyond_control("pursuit", "dense@0.1"),
        uses=("documents",),
    ),
    _lowers(
        id="C8g",
        statement="… and absorption beyond chance, against the encoder",
        metric="excess",
        quantity="absorption − chance of pursuit",
        test=refinement("pursuit", "excess"),
    ),
    _lowers(
        id="C8h", statement="… and ΔF1", metric="dF1", quantity="ΔF1 of pursuit", test=refinement("pursuit", "dF1")
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
