"""§6: LocA-SAE as released and corrected, and the ablations that say what its grouping is worth."""

from repro.sections.loca.claims import answers, verdicts
from repro.sections.loca.figures import effect_figure, metric_figure, variance_figure
from repro.sections.loca.run import latents, run
from repro.sections.loca.words import effects_table, findings, overview, paper_rows
