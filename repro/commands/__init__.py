"""What the commands of the command line do, and the files that they write."""

from repro.commands.many import evaluate, index
from repro.commands.one import CompareConfig, SweepConfig, compare, sweep
from repro.commands.visualize import visualize

__all__ = ["CompareConfig", "SweepConfig", "compare", "evaluate", "index", "sweep", "visualize"]
