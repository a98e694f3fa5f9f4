"""Faults: what the fault suite counted (data/bench/faults.csv), as a table, a figure and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repro.base.files import repo_root

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

ENDS = {"right": "ended right", "refused": "refused in one sentence", "failed": "neither"}


def table(folder: Path | None = None) -> pd.DataFrame | None:
    """Cases by family and how they ended, from data/bench/faults.csv; None where there is no file."""
    import pandas as pd

    path = (folder or repo_root() / "data" / "bench") / "faults.csv"
    if not path.is_file():
        return None
    found = pd.read_csv(path, dtype={"commit": str})
    return found.set_index("family")[["cases", *ENDS, "date", "commit"]].rename(columns=ENDS)


def findings(found: pd.DataFrame) -> str:
    """The sums in a sentence, with every number from the table."""
    killed = found[found.index.str.startswith("kill -9")]
    commands = ", ".join(name.removeprefix("kill -9 of ") for name in killed.index)
    parts = [
        f"{int(found['cases'].sum()):,} cases of {len(found)} families: {int(found[ENDS['right']].sum()):,} ended "
        f"right and {int(found[ENDS['refused']].sum()):,} were refused in one sentence; "
        f"{int(found[ENDS['failed']].sum())} did neither."
    ]
    if len(killed):
        parts.append(
            f"Of {int(killed['cases'].sum())} runs killed at random moments ({commands}), "
            f"{int(killed[ENDS['right']].sum())} ended in the files of an undisturbed run when they were started again."
        )
    return " ".join(parts)


def figure(found: pd.DataFrame) -> Figure:
    """A bar a family, by how its cases ended; the axis is logarithmic, for families of 3 and of 600 cases."""
    import plotly.graph_objects as go

    from repro.base.theme import PALETTE, caption

    fig = go.Figure()
    for color, name in zip(PALETTE, (ENDS["right"], ENDS["refused"], ENDS["failed"])):
        part = found[found[name] > 0]
        if len(part):
            fig.add_bar(y=part.index, x=part[name], name=name, orientation="h", marker_color=color)
    fig.update_layout(
        barmode="group",
        xaxis={"title": "cases", "type": "log"},
        yaxis={"automargin": True, "categoryorder": "array", "categoryarray": list(found.index)[::-1]},
        height=120 + 34 * len(found),
    )
    words = "Every family of faults, and how its cases ended: in the right files and numbers, or refused in a sentence."
    return caption(fig, words, f"Bars of the number of cases in {len(found)} families of faults, by how they ended.")
