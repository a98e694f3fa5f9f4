"""Result tables: written with their provenance, found again by scale, committed ones where none is fresh."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.errors import BadInput
from repro.base.files import cache_dir, repo_root, write_atomically
from repro.base.machine import provenance
from repro.sections.scales import SCALES, Scale

if TYPE_CHECKING:
    import pandas as pd


def committed() -> Path:
    """Tables that travel with the repository."""
    return repo_root() / "data" / "results"


def fresh() -> Path:
    """Tables computed here, ignored by git."""
    return cache_dir() / "results"


def save_table(name: str, scale: Scale, rows: list[dict[str, Any]], seconds: float, **extra: Any) -> pd.DataFrame:
    """Write rows as <scale>/<name>.parquet and .csv under `fresh()`, with a JSON of where they come from."""
    import pandas as pd

    table = pd.DataFrame(rows).drop(columns="path", errors="ignore")  # a path means nothing on another machine
    folder = fresh() / scale.name
    write_atomically(folder / f"{name}.csv", lambda p: table.to_csv(p, index=False, float_format="%.8g"))
    write_atomically(folder / f"{name}.parquet", lambda p: table.to_parquet(p, index=False))
    about = {"scale": dataclasses.asdict(scale), "seconds": round(seconds, 1), **provenance(), **extra}
    write_atomically(folder / f"{name}.json", lambda p: p.write_text(json.dumps(about, indent=1) + "\n"))
    return pd.read_csv(folder / f"{name}.csv")


def load_table(name: str, scale: str) -> pd.DataFrame | None:
    """The fresh table of a scale, else the committed one, else None."""
    import pandas as pd

    for folder in (fresh(), committed()):
        if (folder / scale / f"{name}.csv").is_file():
            return pd.read_csv(folder / scale / f"{name}.csv")
    return None


def need_table(name: str, scale: str) -> pd.DataFrame:
    """load_table, or BadInput that says how to compute it."""
    table = load_table(name, scale)
    if table is None:
        raise BadInput(f"There is no table '{name}' for scale '{scale}' yet; set recompute to True to compute it.")
    return table


def others(name: str, scale: str) -> dict[str, pd.DataFrame]:
    """The tables of the other scales that exist, by scale."""
    found = {other: load_table(name, other) for other in SCALES if other != scale}
    return {other: table for other, table in found.items() if table is not None}


def about(name: str, scale: str) -> dict[str, Any]:
    """Provenance of a table, or an empty dict."""
    for folder in (fresh(), committed()):
        path = folder / scale / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text())
    return {}
