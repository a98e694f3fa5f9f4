"""The JSON files of the released scripts: their keys, further entries, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.errors import BadInput, exhausted

if TYPE_CHECKING:
    import pandas as pd

    from repro.commands.flags import OneSae
    from repro.evaluate import EvalData
    from repro.sae import SAE


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """A parquet table with at least these columns, or BadInput that names the file."""
    import pandas as pd

    try:
        # one thread: where no more may be started (ulimit -v), Arrow's dataset scanner waits for ever for its own
        table = pd.read_parquet(path, use_threads=False, pre_buffer=False)
    except Exception as error:  # pandas reads types out of the file, and numpy refuses some
        if exhausted(error):
            raise
        why = " ".join(str(error).replace(str(path), "").split())[:200]
        raise BadInput(f"{path} is damaged or no parquet table ({why}); make it again.") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise BadInput(f"{path} lacks the column {missing[0]}: it is not the table that belongs there; make it again.")
    return table


RELEASED_NAMES = {
    "NMSE": "NMSE",
    "dead_rate": "DeadRate",
    "dense@0.1": "DenseRate@0.1",
    "dense@0.2": "DenseRate@0.2",
    "F1@1": "F1@1",
    "F1@2": "F1@2",
    "dF1": "ΔF1",
    "absorption": "AbsorptionRate",
}
"""Our column -> the key of the released JSON files."""
RELEASED_MODES = {"amortized": "amortized", "semi": "semi_amortized", "non": "non_amortized"}


def released_keys(row: dict[str, Any]) -> dict[str, Any]:
    """The eight metrics of a row under their released keys."""
    return {name: row[key] for key, name in RELEASED_NAMES.items()}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON: without what is missing, and without what the place in the file says already."""
    return {k: v for k, v in row.items() if v is not None and v == v and k not in ("protocol", "mode", "sha256")}


def about(config: OneSae, sae: SAE, data: EvalData) -> dict[str, Any]:
    """Provenance: the SAE, the tokens, the seed, the commit and the machine."""
    from repro.base.machine import provenance

    source = {k: v for k, v in vars(sae.source).items() if v not in (None, "", {})}
    source["path"] = Path(str(source.get("path", ""))).name
    return {"sae": {"variant": sae.name, "d": sae.config.d, "m": sae.config.m, **source}, "data": data.tokens.info} | {
        "seed": config.seed,
        **provenance(),
    }
