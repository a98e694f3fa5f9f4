"""The claim that better inference fits noise, tested where the truth is known: error and precision at equal L0."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from repro.sections.effects import Tables
from repro.sections.ground_truth.hard_words import change
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding


def by_pursuit(tables: Tables, score: str, dictionary: str, times: float) -> Finding:
    """The test whether pursuit lowers a score against the encoder with as many nonzeros; a draw is a unit."""
    table = tables["ground_truth_hard"]
    part = table[(table["dictionary"] == dictionary) & (table["times"] == times)]
    mean = part.groupby("way")[[score, "L0"]].mean()
    why = ", ".join(f"{way} {mean.loc[way, score]:.3f} at L0 {mean.loc[way, 'L0']:.2f}" for way in mean.index)
    return Finding(replace(change(table, score, dictionary, times), saes=0), why=why)


SENTENCES = {"E4": "Pursuit lowers the error by sources that are not there (Chanin and Garriga-Alonso 2026)."}
"""Chanin and Garriga-Alonso (SynthSAEBench, arXiv 2602.14687) say so of SAEs that are trained with matching pursuit."""
LEADS = {"E4": "On drawn sources whose codes are known, with as many nonzeros as the encoder"}

_LEARNED, _QUARTER = "with the learned dictionary", "with a quarter of the true dictionary"
_PARTS = (
    ("a", "NMSE", "learned", 1.0, f"the error {_LEARNED} and as many nonzeros as sources"),
    ("b", "precision", "learned", 1.0, f"the precision {_LEARNED} and as many nonzeros as sources"),
    ("c", "precision", "learned", 4.0, f"the precision {_LEARNED} and four nonzeros a source"),
    ("d", "precision", "narrow", 1.0, f"the precision {_QUARTER} and as many nonzeros as its sources"),
)
CLAIMS = [
    Claim(
        id=f"E4{letter}",
        section="55_ground_truth",
        claimed="falls",
        needs=("ground_truth_hard",),
        statement=f"On drawn sources, pursuit instead of the encoder lowers {quantity}",
        metric=score,
        quantity=quantity,
        test=partial(by_pursuit, score=score, dictionary=dictionary, times=times),
    )
    for letter, score, dictionary, times, quantity in _PARTS
]

answers, verdicts = partial(answered, CLAIMS, drawn=True), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
