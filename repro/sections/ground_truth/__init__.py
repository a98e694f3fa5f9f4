"""§5.5: sparse codes of a known dictionary, found by encoder, steps, optimum and pursuit."""

from repro.sections.ground_truth.claims import answers, verdicts
from repro.sections.ground_truth.figures import figures, hard_figure, score_figure
from repro.sections.ground_truth.hard import run_hard
from repro.sections.ground_truth.hard_words import (
    by_size,
    exchange,
    hard_findings,
    hard_overview,
    others_on_pursuit,
    split_findings,
    split_overview,
)
from repro.sections.ground_truth.run import run
from repro.sections.ground_truth.words import against_others, effects, findings, overview
