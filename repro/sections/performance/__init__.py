"""Performance: committed timings, several workers, SAEBench at full size, and what the fault suite counted."""

from repro.sections.performance import faults, scale
from repro.sections.performance.figures import faults_figure, gap_figure, plan_figure, ratio_figure, roofline_figure
from repro.sections.performance.timings import (
    agreement,
    bench,
    better_codes,
    facts,
    measured,
    operations,
    proofs,
    solvers,
    times,
    training_speed,
    two_devices,
)
from repro.sections.performance.words import choices, findings, gains, gpus, memory
