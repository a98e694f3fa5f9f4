"""The claim that LocA-SAE's ablations test: fewer pathologies at amortized cost."""

from __future__ import annotations

from functools import partial

from repro.sections.effects import FAILS, HOLDS, OPEN, PART, Claim, Effect, Finding, Tables
from repro.sections.ledger import shown
from repro.sections.loca.words import differences

LOWERED = ("dead_rate", "dF1", "absorption")


def loca(tables: Tables) -> Finding:
    """The test whether LocA-SAE has fewer pathologies than Top-K trained on for as long, and than random groups."""
    table = tables["loca_ablations"]
    plain = {m: Effect.of(differences(table, "loca", "topk", m)) for m in (*LOWERED, "NMSE")}
    chance = {m: Effect.of(differences(table, "loca", "random", m)) for m in LOWERED}
    part = table[table["protocol"] == "as_released"]
    released = f"NMSE {part['NMSE'].mean():.3g} at L0 {part['L0'].mean():.0f}: training stops at its first step"
    corrected = "; ".join(f"{m} {effect}" for m, effect in plain.items())
    falls = [m for m in LOWERED if plain[m].below]
    worse = ", at a higher error" if plain["NMSE"].above else ""
    if len(falls) == len(LOWERED):
        if any(effect.below for effect in chance.values()):
            return Finding(released, corrected, HOLDS)
        why = "random groups do as well: it is not the doing of angular variance"
        return Finding(released, corrected, PART, why)
    if falls:
        why = f"against Top-K trained on for as long, only {', '.join(falls)} falls{worse}"
        return Finding(released, corrected, PART, why)
    if plain["NMSE"].n < 3:
        return Finding(released, corrected, OPEN, "fewer than three seeds: no interval worth the name")
    why = f"no drop in any of the three is shown against Top-K trained on for as long{worse}"
    return Finding(released, corrected, FAILS, why)


SENTENCES = {
    "C7": "LocA-SAE has the benefits at the encoder's price.",
}

CLAIMS = [
    Claim(
        id="C7",
        statement="LocA-SAE has few dead latents and lower absorption at amortized cost",
        paper="dead 0.000, absorption 0.055",
        needs=("loca_ablations",),
        rule="LocA minus Top-K of the same k and training, by seed: holds if dead, ΔF1 and absorption all fall (95 % "
        "intervals below 0) and one falls against random groups too; in part if some; does not if none, over 3 seeds",
        section="60_loca",
        test=loca,
    ),
]

verdicts = partial(shown, CLAIMS)
"""The verdicts of these claims at a scale and the others, to be shown in the notebook."""
