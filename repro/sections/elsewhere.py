"""SAEs of other language models: what `repro compare` and `repro sweep` wrote about them, as the sections' tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from repro.sections.tables import committed

if TYPE_CHECKING:
    import pandas as pd

COMPARE, SWEEP = "3modes", "semi_sweep"  # how the files' names end
MODES = {"semi_amortized": "semi", "non_amortized": "non"}


def tables(kind: str = COMPARE) -> dict[str, pd.DataFrame]:
    """{model and SAE: a row a protocol and mode, or a protocol and number of steps}, of the committed files.

    Columns are those of the tables `comparison` and `sweep`; steps = -1 is the certified optimum.
    """
    import pandas as pd

    out = {}
    for path in sorted(committed().glob(f"*/*_{kind}.json")):
        found = json.loads(path.read_text())
        sae = found["provenance"]["sae"]
        about = {key: sae[key] for key in ("variant", "sparsity", "m", "d")}
        rows: list[dict[str, Any]] = []
        for protocol in ("as_released", "corrected"):
            for name, row in found[protocol].items():
                which = {"mode": MODES.get(name, name)}
                if kind == SWEEP:
                    which = {"steps": -1 if name == "certified" else int(name)}
                rows.append(about | {"protocol": protocol} | which | {k: v for k, v in row.items() if k not in about})
        out[f"{found['model_name']}, layer {sae['layer']}, {sae['variant']}"] = pd.DataFrame(rows)
    return out
