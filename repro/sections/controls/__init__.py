"""§5.1: what a score gives away for free, and what refinement changes on other documents."""

from repro.sections.comparison.run import run as run_comparison
from repro.sections.controls.claims import answers, verdicts
from repro.sections.controls.documents import run_documents
from repro.sections.controls.figures import controls_figure, documents_figure, silent_figure
from repro.sections.controls.run import run
from repro.sections.controls.silent import run_silent, silent_findings, silent_overview
from repro.sections.controls.words import documents_overview, overview
