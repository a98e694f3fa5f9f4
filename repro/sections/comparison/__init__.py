"""§5: one dictionary, three ways to its codes, under both protocols."""

from repro.sections.comparison.claims import answers, verdicts
from repro.sections.comparison.figures import density_figure, null_figure, slopes_figure
from repro.sections.comparison.run import run
from repro.sections.comparison.words import findings, overview
