"""The claim that the controls test: refinement under the encoder's own constraint."""

from __future__ import annotations

from functools import partial

from repro.sections.effects import LOWERS, PATHOLOGIES, Claim, Finding, Tables, lowered, refined
from repro.sections.ledger import shown


def pursuit(tables: Tables) -> Finding:
    """The test whether greedy pursuit of the encoder's k latents has fewer pathologies."""
    import pandas as pd

    both = pd.concat([tables["comparison"], tables["controls"]], ignore_index=True)
    effects = {m: refined({**tables, "comparison": both}, "pursuit", m) for m in PATHOLOGIES}
    return lowered(effects, "–", "pursuit under the encoder's own k")


CLAIMS = [
    Claim(
        id="C8b",
        statement="… judged by refinement under the encoder's own constraint, k nonzeros and no L1 term (pursuit)",
        paper="–",
        needs=("comparison", "controls"),
        rule="holds if pursuit at the encoder's k " + LOWERS,
        section="51_controls",
        test=pursuit,
        uses=("documents",),
    ),
]

verdicts = partial(shown, CLAIMS)
"""The verdicts of these claims at a scale and the others, to be shown in the notebook."""
