"""Inference or dictionary: encoders of other forms, dictionaries learned otherwise, and random ones."""

from repro.sections.encoders.claims import answers, verdicts
from repro.sections.encoders.figures import curves_figure, dictionaries_figure, encoders_figure
from repro.sections.encoders.run import run
from repro.sections.encoders.words import (
    baselines_overview,
    dictionaries_findings,
    encoders_findings,
    encoders_overview,
    modes_overview,
    two_by_two,
)
