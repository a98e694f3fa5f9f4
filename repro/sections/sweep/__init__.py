"""§5.2: how many steps from the encoder's code does it take, at what cost, and what do they change?"""

from repro.sections.sweep.claims import answers, verdicts
from repro.sections.sweep.figures import cost_figure, step_figure
from repro.sections.sweep.run import run
from repro.sections.sweep.words import findings, first_near, overview, paper_rows, paper_says
