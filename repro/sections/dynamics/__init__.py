"""§4.3: metrics of the encoder's codes along training, and the gap between encoder and optimum."""

from repro.sections.dynamics.claims import answers, verdicts
from repro.sections.dynamics.figures import frontier_figure, gap_figure, trajectory_figure
from repro.sections.dynamics.run import run, run_variants
from repro.sections.dynamics.words import as_configured
