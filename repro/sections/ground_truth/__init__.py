"""§5.5: sparse codes of a known dictionary, found by encoder, steps, optimum and pursuit."""

from repro.sections.ground_truth.figures import figures, score_figure
from repro.sections.ground_truth.run import run
from repro.sections.ground_truth.words import against_others, effects, findings, overview
