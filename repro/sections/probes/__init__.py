"""§5.4: the same dictionaries and inference judged by real held-out labels, beside the released label of the norm."""

from repro.sections.probes.claims import answers, verdicts
from repro.sections.probes.figures import figures
from repro.sections.probes.run import run
from repro.sections.probes.words import RULE, findings, overview, verdict
