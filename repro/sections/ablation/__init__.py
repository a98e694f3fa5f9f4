"""§5.3: from the released evaluation to the stated one, a change at a time, and what density alone explains."""

from repro.sections.ablation.figures import (
    dead_figure,
    grid_figure,
    null_figure,
    order_figure,
    seeds_figure,
    waterfall_figure,
)
from repro.sections.ablation.run import over_seeds, run
from repro.sections.ablation.words import (
    density_findings,
    effects,
    explained,
    findings,
    overview,
    paper_says,
    seeds_overview,
    verdict,
)
