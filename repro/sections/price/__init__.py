"""The price of the encoder's guess: error and language-model loss under each kind of codes, and its parts."""

from repro.sections.price.claims import answers, verdicts
from repro.sections.price.elsewhere import elsewhere_overview, run_elsewhere
from repro.sections.price.figures import exchange_figure, frontier_figure, parts_figure, training_figure
from repro.sections.price.payers import payers_figure, payers_findings, run_payers
from repro.sections.price.run import run
from repro.sections.price.widths import doublings, run_widths, widths_findings
from repro.sections.price.words import findings, modes_overview, parts_overview, without_each
