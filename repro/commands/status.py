"""`repro status`: how the tasks of a run with several workers stand."""

from __future__ import annotations

from collections import Counter

from repro.base.errors import BadInput
from repro.commands.flags import Status
from repro.jobs import task as jobs


def status(config: Status) -> None:
    """Print the number of tasks in each state, then those that are not done."""
    states = jobs.status(config.folder)
    if not states:
        raise BadInput(f"No tasks were run in {config.folder}; `repro evaluate --workers 2` leaves some.")
    counts = Counter(state["state"] for state in states)
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    for state in states:
        if state["state"] != "done":
            reason = f": {state['reason']}" if "reason" in state else ""
            print(f"{state['state']} {state['name']} ({state['host']}, process {state['pid']}){reason}")
