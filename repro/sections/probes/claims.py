"""Claims that the probes test: splitting and absorption fall whatever the label."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.sections.effects import FAILS, HOLDS, OPEN, PART, Claim, Effect, Finding, Tables, difference, listed
from repro.sections.ledger import shown


def labels(metric: str, mode: str) -> Callable[[Tables], Finding]:
    """The test whether a mode lowers a metric whatever the label of the probes, at matched L0."""

    def test(tables: Tables) -> Finding:
        released = difference(tables["comparison"], "as_released", mode, metric) if "comparison" in tables else "–"
        means = tables["probe_means"]
        part = means[(means["metric"] == metric) & (means["mode"] == mode)].dropna(subset=["change_low"])
        if part.empty:
            return Finding(released, "–", OPEN)
        effects = {
            str(row["label"]): Effect(row["change"], row["change_low"], row["change_high"], int(row["saes"]))
            for _, row in part.iterrows()
        }
        falls = [name for name, effect in effects.items() if effect.below]
        rises = [name for name, effect in effects.items() if effect.above]
        if len(falls) == len(effects):
            return Finding(released, listed(effects), HOLDS)
        why = (
            f"of {len(effects)} labels, falls for {', '.join(falls) or 'none'} "
            f"and rises for {', '.join(rises) or 'none'}"
        )
        return Finding(released, listed(effects), PART if falls else FAILS if rises else OPEN, why)

    return test


RULE = (
    "95 % intervals over resampled documents, latents picked anew in each: holds if below 0 for every label, in part "
    "if for some, does not hold if above 0 for some and below for none"
)
CLAIMS = [
    Claim(
        id="C5f",
        statement="… and ΔF1 whatever the probes' label: real held-out ones and the norm's",
        paper="0.053 → 0.036",
        needs=("probe_means",),
        rule=RULE,
        section="54_probes",
        test=labels("dF1", "semi"),
        uses=("comparison",),
    ),
    Claim(
        id="C5g",
        statement="… and absorption, whatever the label",
        paper="0.225 → 0.134",
        needs=("probe_means",),
        rule=RULE,
        section="54_probes",
        test=labels("absorption", "semi"),
        uses=("comparison",),
    ),
]

verdicts = partial(shown, CLAIMS)
"""The verdicts of these claims at a scale and the others, to be shown in the notebook."""
