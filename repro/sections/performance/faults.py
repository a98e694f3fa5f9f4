"""Faults: what the fault suite counted (data/bench/faults.csv), as a table and sentences."""

from __future__ import annotations

from pathlib import Path

from repro.base.files import repo_root
from repro.sections.types import DataFrame

ENDS = {"right": "ended right", "refused": "refused in one sentence", "failed": "neither"}


def table(folder: Path | None = None) -> DataFrame | None:
    """Cases by family and how they ended, from data/bench/faults.csv; None where there is no file."""
    import pandas as pd

    path = (folder or repo_root() / "data" / "bench") / "faults.csv"
    if not path.is_file():
        return None
    counts = pd.read_csv(path, dtype={"commit": str})
    return counts.set_index("family")[["cases", *ENDS, "date", "commit"]].rename(columns=ENDS)


def findings(table: DataFrame) -> str:
    """The sums in a sentence, with every number from the table."""
    killed = table[table.index.str.startswith("kill -9")]
    commands = ", ".join(name.removeprefix("kill -9 of ") for name in killed.index)
    parts = [
        f"{int(table['cases'].sum()):,} cases of {len(table)} families: {int(table[ENDS['right']].sum()):,} ended "
        f"right and {int(table[ENDS['refused']].sum()):,} were refused in one sentence; "
        f"{int(table[ENDS['failed']].sum())} did neither."
    ]
    if len(killed):
        parts.append(
            f"Of {int(killed['cases'].sum())} runs killed at random moments ({commands}), "
            f"{int(killed[ENDS['right']].sum())} ended in the files of an undisturbed run when they were started again."
        )
    return " ".join(parts)
