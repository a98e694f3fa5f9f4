"""The commands of the released workflow: index, evaluate, visualize, compare, sweep; the files that they write."""

from repro.workflow.figures import visualize
from repro.workflow.single import CompareConfig, SweepConfig, compare, sweep
from repro.workflow.tables import evaluate, index

__all__ = ["CompareConfig", "SweepConfig", "compare", "evaluate", "index", "sweep", "visualize"]
