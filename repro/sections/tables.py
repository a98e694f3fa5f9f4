"""Result tables: written with their provenance, found again by scale, committed ones where none is fresh."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.base.files import cache_dir, repo_root, write_atomically
from repro.base.machine import provenance
from repro.inference.names import ALIASES
from repro.sections.scales import SCALES, Scale
from repro.sections.types import DataFrame


def committed() -> Path:
    """Tables that travel with the repository."""
    return repo_root() / "data" / "results"


def fresh() -> Path:
    """Tables computed here, ignored by git."""
    return cache_dir() / "results"


def save_table(name: str, scale: Scale, rows: list[dict[str, Any]], seconds: float, **extra: Any) -> DataFrame:
    """Write rows as <scale>/<name>.csv under `fresh()`, with a JSON of where they come from; returns the csv read."""
    import pandas as pd

    table = pd.DataFrame(rows).drop(columns="path", errors="ignore")  # a path means nothing on another machine
    folder = fresh() / scale.name
    write_atomically(folder / f"{name}.csv", lambda p: table.to_csv(p, index=False, float_format="%.8g"))
    origin = {"scale": dataclasses.asdict(scale), "seconds": round(seconds, 1), **provenance(), **extra}
    write_atomically(folder / f"{name}.json", lambda p: p.write_text(json.dumps(origin, indent=1) + "\n"))
    return pd.read_csv(folder / f"{name}.csv")


def load_table(name: str, scale: str) -> DataFrame | None:
    """The fresh table of a scale, else the committed one, else None."""
    import pandas as pd

    path = path_of(name, scale)
    if path is None:
        return None
    table = pd.read_csv(path)
    table.attrs["batch_size"] = (
        about(name, scale).get("scale", {}).get("batch_size")
    )  # pandas copies attrs at each step
    return table


def path_of(name: str, scale: str, suffix: str = "csv") -> Path | None:
    """The fresh file of a table, else the committed one, else None."""
    paths = (folder / scale / f"{name}.{suffix}" for folder in (fresh(), committed()))
    return next((path for path in paths if path.is_file()), None)


def stamp() -> tuple[tuple[str, int], ...]:
    """Path of every table and its time of change, ns: what is computed from them stays true while this is equal."""
    paths = sorted(path for folder in (fresh(), committed()) for path in folder.glob("*/*.csv"))
    return tuple((str(path), path.stat().st_mtime_ns) for path in paths)


def need_table(name: str, scale: str) -> DataFrame:
    """load_table, or BadInput that says how to compute it."""
    table = load_table(name, scale)
    if table is None:
        raise BadInput(f"There is no table '{name}' for scale '{scale}' yet; set recompute to True to compute it.")
    return table


def tidy(table: DataFrame, digits: int = 4) -> DataFrame:
    """A table to be shown: rounded, without columns that hold no value."""
    return table.dropna(axis="columns", how="all").round(digits)


def short(value: float) -> str:
    """Three digits, a dash for what was not measured."""
    if value != value:
        return "–"
    digits = ".0f" if abs(value) >= 100 else ".3g" if value >= 1 else ".3f"
    return f"{value:{digits}}"


def others(name: str, scale: str) -> dict[str, DataFrame]:
    """The tables of the other scales that exist, by scale."""
    tables = {other: load_table(name, other) for other in SCALES if other != scale}
    return {other: table for other, table in tables.items() if table is not None}


def side_by_side(name: str, scale: str, kind: str = "") -> dict[str, DataFrame]:
    """A table of this scale and of every other that has it, by language model: real ones first, the bundled one last.

    kind: COMPARE or SWEEP, to take in the SAEs of other language models that these commands evaluated.
    """
    tables = others(name, scale) | ({} if (own := load_table(name, scale)) is None else {scale: own})
    by_model = {named(about(name, s)["scale"], s): table for s, table in tables.items()}
    by_model |= other_models(kind) if kind else {}
    return dict(sorted(by_model.items(), key=lambda entry: entry[0].endswith(BUNDLED)))


BUNDLED = " (bundled)"


def named(setting: Mapping[str, Any], scale: str) -> str:
    """The language model of a setting; its layer where that is not the preset's own."""
    layer = "" if setting["layer"] is None else f", layer {setting['layer']}"
    return f"{setting['model']}{layer}{BUNDLED if scale == 'tiny' else ''}"


def about(name: str, scale: str) -> dict[str, Any]:
    """Provenance of a table, or an empty dict."""
    path = path_of(name, scale, "json")
    return {} if path is None else json.loads(path.read_text())


def source(scale: str, name: str = "comparison") -> str:
    """The origin of a table in a phrase: language model, tokens, latents, device, date."""
    facts = about(name, scale)
    if not facts:
        return "no provenance"
    s = facts["scale"]
    return (
        f"{s['model']}, {s['eval_tokens']:,} tokens, {s['m']:,} latents, {s['steps']:,} training steps, "
        f"{facts['device']}, {facts['finished'][:10]}"
    )


def paper_numbers(*ids: str) -> DataFrame:
    """The numbers that the paper reports (data/paper.csv), all of them or the rows of some ids."""
    import pandas as pd

    table = pd.read_csv(repo_root() / "data" / "paper.csv").set_index("id")
    return tidy(table.loc[list(ids)] if ids else table)


COMPARE, SWEEP = "3modes", "semi_sweep"  # how the names of files by `repro compare` and `repro sweep` end


def other_models(kind: str = COMPARE) -> dict[str, DataFrame]:
    """SAEs of other language models, {model and SAE: table}, from committed files of `repro compare` or `repro sweep`.

    Rows and columns are those of the tables `comparison` and `sweep`; steps = -1 is the certified optimum.
    """
    import pandas as pd

    out = {}
    for path in sorted(committed().glob(f"*/*_{kind}.json")):
        content = json.loads(path.read_text())
        sae = content["provenance"]["sae"]
        facts = {key: sae[key] for key in ("variant", "sparsity", "m", "d")}
        rows: list[dict[str, Any]] = []
        for protocol in ("as_released", "corrected"):
            for name, row in content[protocol].items():
                which: dict[str, Any] = {"mode": ALIASES.get(name, name)}
                if kind == SWEEP:
                    which = {"steps": -1 if name == "certified" else int(name)}
                rows.append({**row, **facts, "protocol": protocol, **which})
        out[f"{content['model_name']}, layer {sae['layer']}, {sae['variant']}"] = pd.DataFrame(rows)
    return out
